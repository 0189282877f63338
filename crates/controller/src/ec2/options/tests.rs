use crate::ec2::testing::Cloud;
use boira_core::wanted::wanted;

#[test]
fn metadata_options_change_one_by_one_and_reach_the_host() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    let modify = format!("Action=ModifyInstanceMetadataOptions&InstanceId={id}");
    let reply = cloud.ok(&format!("{modify}&HttpTokens=required"));
    assert_eq!(
        (reply.one("state"), reply.one("httpTokens")),
        ("pending", "required")
    );
    let reply = cloud.ok(&format!("{modify}&HttpPutResponseHopLimit=3"));
    assert_eq!(
        (
            reply.one("httpTokens"),
            reply.one("httpPutResponseHopLimit")
        ),
        ("required", "3")
    );
    let wanted = wanted(&cloud.state, &cloud.host, &());
    let metadata = &wanted.network[0].ports[0].metadata;
    assert_eq!((metadata.tokens_required, metadata.hop_limit), (true, 3));
    for (what, code) in [
        ("HttpPutResponseHopLimit=65", "InvalidParameterValue"),
        ("HttpPutResponseHopLimit=0", "InvalidParameterValue"),
        ("HttpProtocolIpv6=enabled", "UnsupportedOperation"),
        ("HttpTokens=maybe", "InvalidParameterValue"),
    ] {
        assert_eq!(cloud.refusal(&format!("{modify}&{what}")), code, "{what}");
    }
}

/// "Work with instance tags in instance metadata": they are names in its tree.
#[test]
fn tags_that_the_metadata_service_shows_have_keys_that_it_can_show() {
    let mut cloud = Cloud::new();
    let key = "kubernetes.io/cluster/x";
    let tag = format!(
        "&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key={key}&TagSpecification.1.Tag.1.Value=1"
    );
    let tagged = cloud.launch(1, &tag).remove(0);
    let on = "HttpEndpoint=enabled&InstanceMetadataTags=enabled";
    let modify = |id| format!("Action=ModifyInstanceMetadataOptions&InstanceId={id}&{on}");
    let error = cloud
        .call(&modify(&tagged))
        .err()
        .expect("it has such a tag");
    assert_eq!(error.code, "InvalidParameterValue");
    assert!(
        error
            .message
            .starts_with(&format!("'{key}' is not a valid tag key")),
        "{error}"
    );

    let plain = cloud.instance();
    cloud.ok(&modify(&plain));
    for key in [key, "a b", ".", "..", "_index", "a%0Ab"] {
        let create =
            format!("Action=CreateTags&ResourceId.1={plain}&Tag.1.Key={key}&Tag.1.Value=1");
        assert_eq!(cloud.refusal(&create), "InvalidParameterValue", "{key}");
    }
    cloud.ok(&format!(
        "Action=CreateTags&ResourceId.1={plain}&Tag.1.Key=a-_%2B%3D,.@:B1&Tag.1.Value=1"
    ));
    let image = cloud.state.instances[&plain].image.clone();
    let launch = format!(
        "Action=RunInstances&ImageId={image}&MinCount=1&MaxCount=1&MetadataOptions.InstanceMetadataTags=enabled{tag}"
    );
    assert_eq!(cloud.refusal(&launch), "InvalidParameterValue");
}

#[test]
fn monitoring_is_recorded_for_all_or_none() {
    let mut cloud = Cloud::new();
    let ids = cloud.launch(2, "");
    let both = format!("InstanceId.1={}&InstanceId.2={}", ids[0], ids[1]);
    let reply = cloud.ok(&format!("Action=MonitorInstances&{both}"));
    assert_eq!(reply.all("state"), ["pending", "pending"]);
    let with_unknown = format!("Action=UnmonitorInstances&{both}&InstanceId.3=i-01234567");
    assert_eq!(cloud.refusal(&with_unknown), "InvalidInstanceID.NotFound");
    let reply = cloud.ok(&format!(
        "Action=UnmonitorInstances&InstanceId.1={}",
        ids[0]
    ));
    assert_eq!(reply.one("state"), "disabling");
    assert!(cloud.state.instances[&ids[1]].monitoring);
}

#[test]
fn credits_are_a_matter_of_burstable_types() {
    let mut cloud = Cloud::new();
    let plain = cloud.instance();
    let burst = cloud.instance();
    cloud.stop(&burst);
    cloud.ok(&format!(
        "Action=ModifyInstanceAttribute&InstanceId={burst}&InstanceType.Value=t2.micro"
    ));
    let describe = "Action=DescribeInstanceCreditSpecifications";
    assert_eq!(
        cloud.ok(describe).all("instanceId").len(),
        0,
        "standard ones are named by id only"
    );
    for id in [&burst, &plain] {
        let reply = cloud.ok(&format!("{describe}&InstanceId.1={id}"));
        assert_eq!(reply.one("cpuCredits"), "standard", "{id}");
    }

    let reply = cloud.ok(&format!(
        "Action=ModifyInstanceCreditSpecification\
         &InstanceCreditSpecification.1.InstanceId={burst}&InstanceCreditSpecification.1.CpuCredits=unlimited\
         &InstanceCreditSpecification.2.InstanceId={plain}&InstanceCreditSpecification.2.CpuCredits=unlimited\
         &InstanceCreditSpecification.3.InstanceId=i-01234567&InstanceCreditSpecification.3.CpuCredits=unlimited"
    ));
    assert!(
        reply
            .one("successfulInstanceCreditSpecificationSet")
            .contains(burst.as_str())
    );
    let codes = reply.all("code");
    assert_eq!(
        codes,
        [
            "InstanceCreditSpecification.NotSupported",
            "InvalidInstanceID.NotFound"
        ]
    );
    assert_eq!(cloud.ok(describe).one("instanceId"), burst.as_str());
    let bad = format!(
        "Action=ModifyInstanceCreditSpecification&InstanceCreditSpecification.1.InstanceId={burst}\
         &InstanceCreditSpecification.1.CpuCredits=lots"
    );
    assert_eq!(cloud.refusal(&bad), "InvalidCpuCredits");
}

#[test]
fn maintenance_and_host_names_take_what_holds() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    let maintenance = format!("Action=ModifyInstanceMaintenanceOptions&InstanceId={id}");
    assert_eq!(
        cloud
            .ok(&format!("{maintenance}&AutoRecovery=disabled"))
            .one("autoRecovery"),
        "disabled"
    );
    let instance = cloud.ok("Action=DescribeInstances");
    assert_eq!(instance.one("autoRecovery"), "disabled");
    assert_eq!(cloud.ok(&maintenance).one("autoRecovery"), "disabled");
    assert_eq!(
        cloud.refusal(&format!("{maintenance}&RebootMigration=disabled")),
        "UnsupportedOperation"
    );

    let names = format!("Action=ModifyPrivateDnsNameOptions&InstanceId={id}");
    assert_eq!(
        cloud
            .ok(&format!("{names}&PrivateDnsHostnameType=ip-name"))
            .one("return"),
        "true"
    );
    for what in [
        "PrivateDnsHostnameType=resource-name",
        "EnableResourceNameDnsARecord=true",
    ] {
        assert_eq!(
            cloud.refusal(&format!("{names}&{what}")),
            "UnsupportedOperation",
            "{what}"
        );
    }
}

#[test]
fn a_stopped_instance_may_be_told_to_reserve_nothing() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    let modify = |preference: &str| {
        format!(
            "Action=ModifyInstanceCapacityReservationAttributes&InstanceId={id}\
             &CapacityReservationSpecification.CapacityReservationPreference={preference}"
        )
    };
    assert_eq!(cloud.refusal(&modify("open")), "IncorrectInstanceState");
    cloud.stop(&id);
    assert_eq!(cloud.ok(&modify("open")).one("return"), "true");
    assert_eq!(cloud.refusal(&modify("none")), "UnsupportedOperation");
}

#[test]
fn monitoring_is_on_its_way_in_the_answer_that_changes_it() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    for (action, state) in [
        ("MonitorInstances", "pending"),
        ("MonitorInstances", "enabled"),
        ("UnmonitorInstances", "disabling"),
        ("UnmonitorInstances", "disabled"),
    ] {
        let reply = cloud.ok(&format!("Action={action}&InstanceId.1={id}"));
        assert_eq!(reply.one("state"), state, "{action}");
    }
    cloud.ok(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    let query = format!("Action=MonitorInstances&InstanceId.1={id}");
    assert_eq!(cloud.refusal(&query), "InvalidState");
}
