use crate::ec2::testing::Cloud;
use boira_model::{InstanceId, ShutdownBehavior};

fn attribute(cloud: &mut Cloud, id: &InstanceId, name: &str) -> String {
    let reply = cloud.ok(&format!(
        "Action=DescribeInstanceAttribute&InstanceId={id}&Attribute={name}"
    ));
    reply.all("value").concat()
}

fn modify(id: &InstanceId, what: &str) -> String {
    format!("Action=ModifyInstanceAttribute&InstanceId={id}&{what}")
}

#[test]
fn every_attribute_can_be_described() {
    let mut cloud = Cloud::new();
    let id = cloud
        .launch(1, "&UserData=aGVsbG8=&DisableApiTermination=true")
        .remove(0);
    for (name, value) in [
        ("instanceType", "m1.small"),
        ("kernel", ""),
        ("ramdisk", ""),
        ("userData", "aGVsbG8="),
        ("disableApiTermination", "true"),
        ("instanceInitiatedShutdownBehavior", "stop"),
        ("rootDeviceName", "/dev/sda1"),
        ("sourceDestCheck", "true"),
        ("ebsOptimized", "false"),
        ("sriovNetSupport", ""),
        ("enaSupport", "false"),
        ("disableApiStop", "false"),
        ("productCodes", ""),
        ("enclaveOptions", ""),
    ] {
        assert_eq!(attribute(&mut cloud, &id, name), value, "{name}");
    }
    let reply = cloud.ok(&format!(
        "Action=DescribeInstanceAttribute&InstanceId={id}&Attribute=groupSet"
    ));
    assert_eq!(reply.one("groupId"), cloud.vpc().default_group.as_str());
    let reply = cloud.ok(&format!(
        "Action=DescribeInstanceAttribute&InstanceId={id}&Attribute=blockDeviceMapping"
    ));
    assert_eq!(reply.one("deviceName"), "/dev/sda1");
    let query = format!("Action=DescribeInstanceAttribute&InstanceId={id}&Attribute=colour");
    assert_eq!(cloud.refusal(&query), "InvalidParameterValue");
}

#[test]
fn members_and_the_older_form_set_the_same() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    for (what, name, value) in [
        (
            "DisableApiTermination.Value=true",
            "disableApiTermination",
            "true",
        ),
        (
            "Attribute=disableApiTermination&Value=false",
            "disableApiTermination",
            "false",
        ),
        ("DisableApiStop.Value=true", "disableApiStop", "true"),
        (
            "Attribute=disableApiStop&Value=false",
            "disableApiStop",
            "false",
        ),
        (
            "InstanceInitiatedShutdownBehavior.Value=terminate",
            "instanceInitiatedShutdownBehavior",
            "terminate",
        ),
        (
            "Attribute=instanceInitiatedShutdownBehavior&Value=stop",
            "instanceInitiatedShutdownBehavior",
            "stop",
        ),
        ("SourceDestCheck.Value=false", "sourceDestCheck", "false"),
        ("EnaSupport.Value=false", "enaSupport", "false"),
    ] {
        cloud.ok(&modify(&id, what));
        assert_eq!(attribute(&mut cloud, &id, name), value, "{what}");
    }
    cloud.ok(&format!(
        "Action=ResetInstanceAttribute&InstanceId={id}&Attribute=sourceDestCheck"
    ));
    assert_eq!(attribute(&mut cloud, &id, "sourceDestCheck"), "true");
    assert_eq!(
        cloud.state.instances[&id].shutdown_behavior,
        ShutdownBehavior::Stop
    );
}

#[test]
fn type_and_user_data_change_only_while_stopped() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    let changes = ["InstanceType.Value=m1.large", "UserData.Value=Ynll"];
    for what in changes {
        assert_eq!(
            cloud.refusal(&modify(&id, what)),
            "IncorrectInstanceState",
            "{what}"
        );
    }
    cloud.stop(&id);
    for what in changes {
        cloud.ok(&modify(&id, what));
    }
    assert_eq!(attribute(&mut cloud, &id, "instanceType"), "m1.large");
    assert_eq!(attribute(&mut cloud, &id, "userData"), "Ynll");
    assert_eq!(cloud.state.instances[&id].vcpus, 2);
    cloud.ok(&modify(&id, "UserData.Value="));
    assert_eq!(attribute(&mut cloud, &id, "userData"), "");

    assert_eq!(
        cloud.refusal(&modify(&id, "InstanceType.Value=m9.huge")),
        "InvalidInstanceAttributeValue"
    );
    let tiny = boira_model::InstanceType {
        name: "t.tiny".into(),
        vcpus: 1,
        memory_mib: 32,
        disk_gib: 1,
        burstable: false,
        unlimited: false,
        cpu_level: 0,
        recover: Default::default(),
    };
    let mut types = boira_core::InstanceTypes::clone(&cloud.state.types);
    types.insert(tiny.name.clone(), tiny);
    cloud.state.types = types.into();
    assert_eq!(
        cloud.refusal(&modify(&id, "InstanceType.Value=t.tiny")),
        "InvalidParameterCombination"
    );
    // It has run without these instructions, and the new type promises them.
    let mut modern = boira_model::InstanceType::clone(&cloud.state.types["m1.large"]);
    modern.name = "m9.modern".into();
    modern.cpu_level = 3;
    let mut types = boira_core::InstanceTypes::clone(&cloud.state.types);
    types.insert(modern.name.clone(), modern);
    cloud.state.types = types.into();
    cloud.ok(&modify(&id, "InstanceType.Value=m9.modern"));
    assert_eq!(cloud.state.instances[&id].cpu, "Haswell-v2");

    let long = "QUFB".repeat(6000);
    assert_eq!(
        cloud.refusal(&modify(&id, &format!("UserData.Value={long}"))),
        "InvalidParameterValue"
    );
    cloud.ok(&format!("Action=StartInstances&InstanceId.1={id}"));
    assert_eq!(cloud.state.instances[&id].memory_bytes, 512 << 20);
}

#[test]
fn groups_are_replaced_and_reach_the_host() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    let reply = cloud.ok("Action=CreateSecurityGroup&GroupName=web&GroupDescription=d");
    let web = reply.one("groupId").to_owned();
    let before = cloud.state.revision(&cloud.host);
    cloud.ok(&modify(&id, &format!("GroupId.1={web}")));
    assert!(cloud.state.revision(&cloud.host) > before);
    let reply = cloud.ok(&format!(
        "Action=DescribeInstanceAttribute&InstanceId={id}&Attribute=groupSet"
    ));
    assert_eq!(reply.one("groupId"), web);
    let unknown = modify(&id, "GroupId.1=sg-0123456789abcdef0");
    assert_eq!(cloud.refusal(&unknown), "InvalidGroup.NotFound");
}

#[test]
fn a_volume_may_outlive_its_instance() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    let keep = "BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.DeleteOnTermination=false";
    cloud.ok(&modify(&id, keep));
    let reply = cloud.ok(&format!(
        "Action=DescribeInstanceAttribute&InstanceId={id}&Attribute=blockDeviceMapping"
    ));
    assert_eq!(reply.one("deleteOnTermination"), "false");
    let elsewhere = keep.replace("sda1", "sdz");
    assert_eq!(
        cloud.refusal(&modify(&id, &elsewhere)),
        "InvalidInstanceAttributeValue"
    );
    let other = format!("{keep}&BlockDeviceMapping.1.Ebs.VolumeId=vol-0123456789abcdef0");
    assert_eq!(
        cloud.refusal(&modify(&id, &other)),
        "InvalidInstanceAttributeValue"
    );
    let volume = cloud.state.instances[&id].disks[0].clone();
    cloud.ok(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    cloud.edit(|draft| boira_core::observe::release(draft, &id));
    assert!(
        cloud.state.volumes[&volume].attachment.is_none(),
        "it is available"
    );
}

#[test]
fn what_can_not_be_is_refused() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    for (what, code) in [
        ("", "InvalidParameterCombination"),
        (
            "DisableApiStop.Value=true&DisableApiTermination.Value=true",
            "InvalidParameterCombination",
        ),
        (
            "Attribute=disableApiStop&DisableApiTermination.Value=true",
            "InvalidParameterCombination",
        ),
        ("Attribute=disableApiStop", "MissingParameter"),
        (
            "Attribute=disableApiStop&Value=maybe",
            "InvalidParameterValue",
        ),
        ("Attribute=rootDeviceName&Value=x", "InvalidParameterValue"),
        (
            "InstanceInitiatedShutdownBehavior.Value=explode",
            "InvalidParameterValue",
        ),
        ("Kernel.Value=aki-1", "UnsupportedOperation"),
        ("SriovNetSupport.Value=simple", "UnsupportedOperation"),
        ("EnaSupport.Value=true", "UnsupportedOperation"),
        ("EbsOptimized.Value=true", "Unsupported"),
        ("EnclaveOptions.Enabled=true", "UnsupportedOperation"),
        ("GroupId.1=rubbish", "InvalidGroupId.Malformed"),
    ] {
        assert_eq!(cloud.refusal(&modify(&id, what)), code, "{what}");
    }
    let unknown = InstanceId::from("i-0123456789abcdef0");
    assert_eq!(
        cloud.refusal(&modify(&unknown, "DisableApiStop.Value=true")),
        "InvalidInstanceID.NotFound"
    );
    let reset = format!("Action=ResetInstanceAttribute&InstanceId={id}&Attribute=kernel");
    assert_eq!(cloud.refusal(&reset), "IncorrectInstanceState");
    cloud.ok(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    assert_eq!(
        cloud.refusal(&modify(&id, "DisableApiStop.Value=true")),
        "IncorrectInstanceState"
    );
}

#[test]
fn changes_are_in_the_instance_s_history_and_repetitions_write_nothing() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    let call = cloud
        .prepare(&cloud.account, &modify(&id, "DisableApiStop.Value=true"))
        .expect("valid");
    let change = |cloud: &mut Cloud| {
        cloud.edit(|draft| {
            super::modify(&call, draft)
                .map(|_| draft.change.clone())
                .expect("modified")
        })
    };
    let first = change(&mut cloud);
    assert_eq!(first.events[0].what, "stop protection on");
    assert!(change(&mut cloud).is_empty());
}
