//! The typed views and builders over the generic reader and writer.

use std::sync::Arc;

use boira_api::input::ec2::RunInstancesRequest;
use boira_api::output::ec2 as out;
use boira_api::respond::respond;
use boira_api::shapes::ec2;
use boira_api::{Value, decode, form};

#[test]
fn a_request_is_read_by_name() {
    let operation = ec2::SERVICE.operation("RunInstances").expect("AWS has it");
    let query = b"MinCount=1&MaxCount=2&BlockDeviceMapping.1.DeviceName=sda&BlockDeviceMapping.1.Ebs.VolumeSize=9\
                  &SecurityGroupId.1=sg-1&TagSpecification.1.Tag.1.Key=k&Placement.Tenancy=default";
    let request = decode(operation, &form::parse(query).expect("well formed")).expect("valid");
    let request = RunInstancesRequest::new(&request);
    assert_eq!((request.min_count(), request.max_count()), (1, 2));
    assert_eq!(request.image_id(), None);
    let mapping = request.block_device_mappings().next().expect("one mapping");
    assert_eq!(mapping.device_name(), Some("sda"));
    assert_eq!(mapping.ebs().and_then(|ebs| ebs.volume_size()), Some(9));
    assert_eq!(request.security_group_ids().collect::<Vec<_>>(), ["sg-1"]);
    assert!(request.network_interfaces().is_empty());
    assert_eq!(
        request
            .placement()
            .and_then(|placement| placement.tenancy()),
        Some("default")
    );
    let tags: Vec<_> = request
        .tag_specifications()
        .flat_map(|tags| tags.tags())
        .collect();
    assert_eq!((tags[0].key(), tags[0].value()), (Some("k"), None));
}

#[test]
fn an_answer_is_built_by_name() {
    let tag = Arc::new(Value::from(
        out::Tag::new().key("Name").value("web".to_owned()),
    ));
    let instance = out::Instance::new()
        .instance_id(Arc::<str>::from("i-1"))
        .public_ip_address(None::<String>)
        .launch_time(0)
        .ebs_optimized(false)
        .state(out::InstanceState::new().code(16).name("running"))
        .tags(vec![tag]);
    let answer = out::DescribeInstancesResult::new()
        .reservations(vec![out::Reservation::new().instances(vec![instance])])
        .next_token(None::<&str>);
    let operation = ec2::SERVICE
        .operation("DescribeInstances")
        .expect("AWS has it");
    let xml =
        String::from_utf8(respond(operation, "2016-11-15", "req", &answer.into())).expect("UTF-8");
    assert!(xml.ends_with(
        "<reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>\
         <launchTime>1970-01-01T00:00:00.000Z</launchTime><ebsOptimized>false</ebsOptimized>\
         <instanceState><code>16</code><name>running</name></instanceState>\
         <tagSet><item><key>Name</key><value>web</value></item></tagSet></item></instancesSet></item></reservationSet>\
         </DescribeInstancesResponse>"
    ));
}
