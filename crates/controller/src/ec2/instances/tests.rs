use super::super::{instance_filter, testing::Cloud};
use boira_model::StateName;

fn found(cloud: &mut Cloud, name: &str, value: &str) -> usize {
    let query = format!("Action=DescribeInstances&Filter.1.Name={name}&Filter.1.Value.1={value}");
    cloud.ok(&query).0.matches("<instanceId>i-").count()
}

#[test]
fn instances_of_one_launch_are_one_reservation() {
    let mut cloud = Cloud::new();
    cloud.launch(3, "");
    cloud.launch(2, "");
    let reply = cloud.ok("Action=DescribeInstances");
    assert_eq!(reply.all("reservationId").len(), 2);
    assert_eq!(reply.all("amiLaunchIndex"), ["0", "1", "2", "0", "1"]);
}

#[test]
fn ids_are_checked_and_all_missing_ones_named() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    let other = cloud.other.clone();
    for (query, code) in [
        (
            "InstanceId.1=rubbish".to_owned(),
            "InvalidInstanceID.Malformed",
        ),
        (
            format!("InstanceId.1={id}&InstanceId.2=i-01234567"),
            "InvalidInstanceID.NotFound",
        ),
        (
            format!("InstanceId.1={id}&MaxResults=5"),
            "InvalidParameterCombination",
        ),
        ("MaxResults=4".to_owned(), "InvalidParameterValue"),
        ("MaxResults=1001".to_owned(), "InvalidParameterValue"),
        ("NextToken=made-up".to_owned(), "InvalidNextToken"),
        (
            "Filter.1.Name=colour&Filter.1.Value.1=red".to_owned(),
            "InvalidParameterValue",
        ),
    ] {
        assert_eq!(
            cloud.refusal(&format!("Action=DescribeInstances&{query}")),
            code,
            "{query}"
        );
    }
    let missing = "Action=DescribeInstances&InstanceId.1=i-01234567&InstanceId.2=i-89abcdef";
    let error = cloud.call(missing).err().expect("refused");
    assert_eq!(
        error.message,
        "The instance IDs 'i-01234567, i-89abcdef' do not exist"
    );
    let theirs = cloud.call_as(
        &other,
        &format!("Action=DescribeInstances&InstanceId.1={id}"),
    );
    assert_eq!(
        theirs.err().expect("refused").code,
        "InvalidInstanceID.NotFound"
    );
    let twice = cloud.ok(&format!(
        "Action=DescribeInstances&InstanceId.1={id}&InstanceId.2={id}"
    ));
    assert_eq!(twice.all("instanceState").len(), 1);
}

#[test]
fn pages_hold_every_instance_once() {
    let mut cloud = Cloud::new();
    let mut all: Vec<String> = cloud
        .launch(12, "")
        .iter()
        .map(ToString::to_string)
        .collect();
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let reply = cloud.ok(&format!(
            "Action=DescribeInstances&MaxResults=5&NextToken={token}"
        ));
        let ids: Vec<_> = reply
            .all("instanceId")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(ids.len() <= 5);
        seen.extend(ids);
        match reply.all("nextToken")[..] {
            [next] => token = next.to_owned(),
            _ => break,
        }
    }
    seen.sort_unstable();
    all.sort_unstable();
    assert_eq!(seen, all);
}

#[test]
fn what_starts_is_pending_for_a_reason_and_is_used_since_its_launch() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    let first = cloud.state.instances[&id].launched;
    cloud.stop(&id);
    cloud.now = boira_model::Wall(cloud.now.0 + 60_000);
    cloud.ok(&format!("Action=StartInstances&InstanceId.1={id}"));
    assert_ne!(cloud.state.instances[&id].launched, first);
    let reply = cloud.ok(&format!("Action=DescribeInstances&InstanceId.1={id}"));
    assert_eq!(
        reply.one("stateReason"),
        "<code>pending</code><message>pending</message>"
    );
    let used = boira_api::time::format_ms(first.0);
    assert_eq!(reply.one("usageOperationUpdateTime"), used);
    assert_eq!(reply.one("bootMode"), "legacy-bios");
    for (filter, value) in [
        ("state-reason-code", "pending"),
        ("usage-operation-update-time", &used),
        ("boot-mode", "legacy-bios"),
    ] {
        assert_eq!(found(&mut cloud, filter, value), 1, "{filter}");
    }
    // As a terminated one.
    cloud.edit(|draft| draft.edit_instance(&id, |row| row.interfaces.clear()));
    let reply = cloud.ok(&format!("Action=DescribeInstances&InstanceId.1={id}"));
    assert!(!reply.has("usageOperationUpdateTime"));
}

#[test]
fn filters_find_what_an_instance_has() {
    let mut cloud = Cloud::new();
    let id = cloud.launch(1, "&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value=web").remove(0);
    let stopped = cloud.instance();
    cloud.stop(&stopped);
    let row = cloud.state.instances[&id].clone();
    let port = cloud.state.interfaces[&row.interfaces[0]].clone();
    let name = boira_core::wanted::private_dns_name(port.ip, "us-east-1");
    for (filter, value) in [
        ("instance-id", id.as_str()),
        ("reservation-id", row.reservation.as_str()),
        ("block-device-mapping.volume-id", row.disks[0].as_str()),
        ("network-interface.network-interface-id", port.id.as_str()),
        (
            "network-interface.attachment.attachment-id",
            port.attachment.as_ref().expect("attached").id.as_str(),
        ),
        ("network-interface.mac-address", &port.mac.to_string()),
        ("private-ip-address", &port.ip.to_string()),
        ("private-dns-name", &name),
        ("instance-state-name", "running"),
        ("instance-state-code", "16"),
        ("tag:Name", "we*"),
        ("tag-key", "Name"),
    ] {
        assert_eq!(found(&mut cloud, filter, value), 1, "{filter}");
    }
    let vpc = cloud.vpc();
    for (filter, value) in [
        ("vpc-id", vpc.id.as_str()),
        ("network-interface.vpc-id", vpc.id.as_str()),
        ("instance.group-id", vpc.default_group.as_str()),
        ("group-name", "default"),
        ("availability-zone", "us-east-1a"),
        ("availability-zone-id", "*-az1"),
        ("owner-id", cloud.account.clone().as_str()),
        ("instance-type", "m1.small"),
        ("root-device-type", "ebs"),
        ("source-dest-check", "true"),
        ("block-device-mapping.delete-on-termination", "true"),
        ("metadata-options.http-tokens", "optional"),
        ("monitoring-state", "disabled"),
    ] {
        assert_eq!(found(&mut cloud, filter, value), 2, "{filter}");
    }
    for (filter, value) in [
        ("ip-address", "*"),
        ("instance-lifecycle", "spot"),
        ("reason", "Server*"),
    ] {
        assert_eq!(found(&mut cloud, filter, value), 0, "{filter}");
    }
    assert_eq!(
        found(
            &mut cloud,
            "state-reason-code",
            "Client.UserInitiatedShutdown"
        ),
        1
    );
}

#[test]
fn every_known_filter_is_accepted_and_the_list_has_no_doubles() {
    let mut cloud = Cloud::new();
    cloud.instance();
    let mut names = instance_filter::NAMES.to_vec();
    for name in &names {
        found(&mut cloud, name, "x");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), instance_filter::NAMES.len());
}

#[test]
fn a_terminated_instance_stays_visible_without_addresses_and_with_its_reason() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    cloud.ok(&format!(
        "Action=CreateTags&ResourceId.1={id}&Tag.1.Key=a&Tag.1.Value=1"
    ));
    cloud.ok(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    cloud.edit(|draft| boira_core::observe::release(draft, &id));
    assert_eq!(cloud.state.instances[&id].state(), StateName::Terminated);
    let reply = cloud.ok("Action=DescribeInstances");
    assert_eq!(reply.all("privateIpAddress").len(), 0);
    assert_eq!(reply.one("key"), "a");
    assert!(reply.one("reason").starts_with("User initiated ("));
    assert!(
        reply
            .one("stateReason")
            .contains("Client.UserInitiatedShutdown")
    );
}

#[test]
fn public_fields_repeat_the_private_address_only_by_setting() {
    let mut cloud = Cloud::new();
    cloud.instance();
    assert_eq!(
        cloud.ok("Action=DescribeInstances").all("ipAddress").len(),
        0
    );
    let mut settings = boira_core::Settings::clone(&cloud.state.settings);
    settings.private_address_as_public = true;
    cloud.state.settings = settings.into();
    let reply = cloud.ok("Action=DescribeInstances");
    assert_eq!(reply.one("ipAddress"), reply.all("privateIpAddress")[0]);
    assert_eq!(found(&mut cloud, "ip-address", "172.31.*"), 1);
}

#[test]
fn the_reason_of_a_transition_has_the_time_of_its_request() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    cloud.ok(&format!("Action=StopInstances&InstanceId.1={id}"));
    let reason = cloud
        .ok("Action=DescribeInstances")
        .one("reason")
        .to_owned();
    assert!(
        reason.starts_with("User initiated (20") && reason.ends_with(" GMT)"),
        "{reason}"
    );
    cloud.wait_ms(90_000);
    let now = cloud.now;
    cloud.edit(|draft| {
        draft.edit_instance(&id, |row| {
            row.observed = boira_model::Observed::Absent;
            row.since = now;
        });
    });
    assert_eq!(cloud.ok("Action=DescribeInstances").one("reason"), reason);
}

#[test]
fn an_end_may_be_asked_for_in_every_way_that_ec2_has() {
    let mut cloud = Cloud::new();
    let id = cloud.launch(1, "&DisableApiStop=true").remove(0);
    let terminate =
        format!("Action=TerminateInstances&InstanceId.1={id}&Force=true&SkipOsShutdown=true");
    let error = cloud.call(&terminate).err().expect("protected");
    assert_eq!(error.code, "OperationNotPermitted");
    assert!(error.message.contains("'disableApiStop'"), "{error}");
    cloud.ok(&format!(
        "Action=ModifyInstanceAttribute&InstanceId={id}&DisableApiStop.Value=false"
    ));
    cloud.ok(&terminate);
}

#[test]
fn a_dry_run_of_a_read_says_what_the_read_would() {
    let mut cloud = Cloud::new();
    let taken = "c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSUJ1M0RrQ2JqSEI2cHI2cVJIVFpRSkZlMzlVMVRaZXpXQ1QzUTJRSXFGOWM=";
    cloud.ok(&format!(
        "Action=ImportKeyPair&KeyName=taken&PublicKeyMaterial={taken}"
    ));
    for (query, code) in [
        ("DescribeInstances", "DryRunOperation"),
        (
            "DescribeInstances&InstanceId.1=i-01234567",
            "InvalidInstanceID.NotFound",
        ),
        (
            "DescribeInstances&Filter.1.Name=colour&Filter.1.Value.1=red",
            "InvalidParameterValue",
        ),
        ("CreateKeyPair&KeyName=new", "DryRunOperation"),
        ("CreateKeyPair&KeyName=taken", "InvalidKeyPair.Duplicate"),
        (
            "CreateKeyPair&KeyName=new&KeyFormat=ppk",
            "UnsupportedOperation",
        ),
        (
            "GetConsoleOutput&InstanceId=i-01234567",
            "InvalidInstanceID.NotFound",
        ),
    ] {
        assert_eq!(
            cloud.refusal(&format!("Action={query}&DryRun=true")),
            code,
            "{query}"
        );
    }
}

#[test]
fn lists_of_an_instance_without_interface_are_there_and_empty() {
    let mut cloud = Cloud::new();
    let id = cloud.instance();
    cloud.ok(&format!("Action=TerminateInstances&InstanceId.1={id}"));
    cloud.observe(&id, boira_model::Observed::Absent);
    cloud.edit(|draft| boira_core::observe::release(draft, &id));
    let reply = cloud.ok("Action=DescribeInstances");
    let instance = reply.0.split("<instancesSet>").nth(1).expect("a list");
    for list in ["networkInterfaceSet", "groupSet"] {
        let empty = format!("<{list}></{list}>");
        assert!(instance.contains(&empty), "{list}: {instance}");
    }
}

#[test]
fn who_names_no_instance_is_told_so() {
    let mut cloud = Cloud::new();
    for action in [
        "StartInstances",
        "StopInstances",
        "RebootInstances",
        "TerminateInstances",
        "MonitorInstances",
    ] {
        let code = cloud.refusal(&format!("Action={action}"));
        assert_eq!(code, "InvalidParameterCombination", "{action}");
    }
}
