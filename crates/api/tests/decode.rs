//! What the generic reader accepts and how it refuses.

use std::borrow::Cow;

use boira_api::shapes::{ec2, sts};
use boira_api::{ApiError, Operation, Service, Struct, Value, decode, form};
use proptest::prelude::*;

fn operation(service: &'static Service, name: &str) -> &'static Operation {
    service.operation(name).expect("AWS has the operation")
}

fn ec2_request(action: &str, query: &str) -> Result<Struct, ApiError> {
    decode(
        operation(&ec2::SERVICE, action),
        &form::parse(query.as_bytes()).expect("well formed"),
    )
}

fn sts_request(action: &str, query: &str) -> Result<Struct, ApiError> {
    decode(
        operation(&sts::SERVICE, action),
        &form::parse(query.as_bytes()).expect("well formed"),
    )
}

fn refusal(action: &str, query: &str) -> (String, String) {
    let error = ec2_request(action, query).expect_err(query);
    (error.code.into_owned(), error.message)
}

#[test]
fn a_whole_run_instances_is_read() {
    let request = ec2_request(
        "RunInstances",
        "Action=RunInstances&Version=2016-11-15&ImageId=ami-1&MinCount=1&MaxCount=3&InstanceType=old.pc\
         &SecurityGroupId.1=sg-1&SecurityGroupId.2=sg-2&BlockDeviceMapping.1.DeviceName=%2Fdev%2Fsda1\
         &BlockDeviceMapping.1.Ebs.VolumeSize=8&BlockDeviceMapping.1.Ebs.DeleteOnTermination=true\
         &TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name\
         &TagSpecification.1.Tag.1.Value=a+b&DryRun=false&NetworkInterface.1.DeviceIndex=0\
         &NetworkInterface.1.PrivateIpAddresses.1.PrivateIpAddress=172.31.0.9\
         &X-Amz-Date=x&X-Amz-Signature=y&Timestamp=z",
    )
    .expect("valid");
    assert_eq!(request.str("ImageId"), Some("ami-1"));
    assert_eq!(
        (request.int("MinCount"), request.int("MaxCount")),
        (Some(1), Some(3))
    );
    assert_eq!(
        request.str("InstanceType"),
        Some("old.pc"),
        "types are the administrator's"
    );
    assert_eq!(request.bool("DryRun"), Some(false));
    let groups: Vec<_> = request
        .list("SecurityGroupIds")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(groups, ["sg-1", "sg-2"]);
    let mapping = request.list("BlockDeviceMappings")[0]
        .as_struct()
        .expect("a structure");
    assert_eq!(mapping.str("DeviceName"), Some("/dev/sda1"));
    assert_eq!(
        mapping
            .structure("Ebs")
            .and_then(|ebs| ebs.int("VolumeSize")),
        Some(8)
    );
    let tags = request.list("TagSpecifications")[0]
        .as_struct()
        .expect("a structure")
        .list("Tags");
    assert_eq!(
        tags[0].as_struct().and_then(|tag| tag.str("Value")),
        Some("a b")
    );
    let interface = request.list("NetworkInterfaces")[0]
        .as_struct()
        .expect("a structure");
    assert_eq!(
        interface.list("PrivateIpAddresses").len(),
        1,
        "queryName goes before locationName"
    );
    assert_eq!(
        request
            .first_besides(&["ImageId", "MinCount", "MaxCount"])
            .map(|m| m.name),
        Some("InstanceType")
    );
}

#[test]
fn boto_2_counts_the_one_instance_of_a_console() {
    let request = ec2_request("GetConsoleOutput", "InstanceId.1=i-1").expect("as AWS takes it");
    assert_eq!(request.str("InstanceId"), Some("i-1"));
    let (code, _) = refusal(
        "DescribeInstanceAttribute",
        "InstanceId.1=i-1&Attribute=kernel",
    );
    assert_eq!(code, "UnknownParameter");
}

#[test]
fn lists_count_from_zero_or_one_and_close_gaps() {
    let ids = |query: &str| -> Vec<String> {
        let request = ec2_request("DescribeInstances", query).expect(query);
        request
            .list("InstanceIds")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(ids("InstanceId.0=a&InstanceId.1=b"), ["a", "b"]);
    assert_eq!(ids("InstanceId.1=a&InstanceId.2=b"), ["a", "b"]);
    assert_eq!(
        ids("InstanceId.10=b&InstanceId.9=a&InstanceId.99999=c"),
        ["a", "b", "c"]
    );
    assert_eq!(ids(""), Vec::<String>::new());
    assert_eq!(ids("InstanceId=a"), ["a"], "as libcloud and fog send it");
}

#[test]
fn ec2_refuses_in_its_words() {
    let is = |action: &str, query: &str, code: &str, message: &str| {
        let (is_code, is_message) = refusal(action, query);
        assert_eq!(
            (is_code.as_str(), is_message.as_str()),
            (code, message),
            "{action}?{query}"
        );
    };
    is(
        "RunInstances",
        "MinCount=1",
        "MissingParameter",
        "The request must contain the parameter MaxCount",
    );
    is(
        "TerminateInstances",
        "",
        "InvalidParameterCombination",
        "No instances specified",
    );
    is(
        "GetConsoleOutput",
        "",
        "MissingParameter",
        "The request must contain the parameter InstanceId",
    );
    is(
        "CreateVolume",
        "AvailabilityZone=a&TagSpecification.1.Tag.1.Key=a&Nonsense=1",
        "UnknownParameter",
        "The parameter Nonsense is not recognized",
    );
    is(
        "DescribeInstances",
        "Filter.1.Name.x=1",
        "UnknownParameter",
        "The parameter Filter.1.Name.x is not recognized",
    );
    is(
        "DescribeInstances",
        "InstanceId=i-1&InstanceId.1=i-2",
        "MalformedQueryString",
        "The parameter InstanceId.1 was given more than once.",
    );
    is(
        "DescribeInstances",
        "Filter=i-1",
        "UnknownParameter",
        "The parameter Filter is not recognized",
    );
    is(
        "RunInstances",
        "MinCount=one&MaxCount=1",
        "InvalidParameterValue",
        "Value (one) for parameter MinCount is invalid. Expected an integer.",
    );
    is(
        "DescribeInstances",
        "DryRun=perhaps",
        "InvalidParameterValue",
        "Value (perhaps) for parameter DryRun is invalid. Expected true or false.",
    );
    is(
        "ModifyInstanceMetadataOptions",
        "InstanceId=i-1&HttpTokens=never",
        "InvalidParameterValue",
        "Value (never) for parameter HttpTokens is invalid. Member must satisfy enum value set: [optional, required].",
    );
    is(
        "DescribeInstances",
        "MaxResults=5&MaxResults=6",
        "MalformedQueryString",
        "The parameter MaxResults was given more than once.",
    );
    let (code, _) = refusal("DescribeInstances", "Filter.999999999.Name=a");
    assert_eq!(code, "InvalidParameterValue");
    let (code, message) = refusal("ImportKeyPair", "KeyName=k&PublicKeyMaterial=!secret!");
    assert_eq!(code, "InvalidParameterValue");
    assert!(!message.contains("secret"));
    let (code, _) = refusal(
        "ModifyInstanceAttribute",
        "InstanceId=i-1&UserData.Value=!!",
    );
    assert_eq!(code, "InvalidUserData.Malformed");
    let (code, _) = refusal("RunInstances", "MinCount=99999999999&MaxCount=1");
    assert_eq!(code, "InvalidParameterValue");
}

#[test]
fn unimplemented_operations_validate_too() {
    assert!(ec2_request("CreateVpnGateway", "Type=ipsec.1").is_ok());
    assert_eq!(refusal("CreateVpnGateway", "").0, "MissingParameter");
    assert_eq!(
        refusal("CreateVpnGateway", "Type=carrier-pigeon").0,
        "InvalidParameterValue"
    );
    assert_eq!(
        ec2::SERVICE
            .operation("RunInstancez")
            .expect_err("unknown")
            .code,
        "InvalidAction"
    );
}

#[test]
fn blobs_and_times_are_read() {
    let request =
        ec2_request("ImportKeyPair", "KeyName=k&PublicKeyMaterial=c3No%0AIQ").expect("valid");
    assert_eq!(
        request.get("PublicKeyMaterial").and_then(Value::as_blob),
        Some(&b"ssh!"[..])
    );
    let request = ec2_request(
        "DescribeSpotPriceHistory",
        "StartTime=2020-01-01T00:00:00.5Z",
    )
    .expect("valid");
    assert_eq!(
        request.get("StartTime").and_then(Value::as_timestamp_ms),
        Some(1_577_836_800_500)
    );
    assert_eq!(
        refusal("DescribeSpotPriceHistory", "StartTime=yesterday").0,
        "InvalidParameterValue"
    );
}

#[test]
fn query_services_count_members() {
    let role = "RoleArn=arn:aws:iam::123456789012:role/demo&RoleSessionName=demo";
    let request = sts_request(
        "AssumeRole",
        &format!("{role}&Tags.member.1.Key=a&Tags.member.1.Value=b&TransitiveTagKeys.member.1=a&PolicyArns="),
    )
    .expect("valid");
    assert_eq!(request.list("Tags").len(), 1);
    assert_eq!(request.list("TransitiveTagKeys")[0].as_str(), Some("a"));
    assert_eq!(
        request.get("PolicyArns").map(|list| list.as_list().len()),
        Some(0)
    );
    assert!(
        sts_request(
            "GetCallerIdentity",
            "Action=GetCallerIdentity&Version=2011-06-15"
        )
        .is_ok()
    );

    let error = sts_request("AssumeRole", "RoleSessionName=demo").expect_err("no role");
    assert_eq!(error.code, "ValidationError");
    assert_eq!(
        error.message,
        "1 validation error detected: Value null at 'roleArn' failed to satisfy constraint: Member must not be null"
    );
    let error =
        sts_request("AssumeRole", &format!("{role}&DurationSeconds=1")).expect_err("too short");
    assert_eq!(
        error.message,
        "1 validation error detected: Value '1' at 'durationSeconds' failed to satisfy constraint: \
         Member must have value greater than or equal to 900"
    );
    let error =
        sts_request("AssumeRole", &format!("{role}&Tags.1.Key=a")).expect_err("not a member list");
    assert_eq!(error.code, "InvalidQueryParameter");
}

/// Names that go some way into a shape, so that random requests reach the deep ends.
fn step() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("Filter".to_owned()),
        Just("BlockDeviceMapping".to_owned()),
        Just("Ebs".to_owned()),
        Just("TagSpecification".to_owned()),
        Just("Tag".to_owned()),
        Just("Value".to_owned()),
        Just("UserData".to_owned()),
        Just("NetworkInterface".to_owned()),
        Just(String::new()),
        "[0-9]{1,12}",
        "[A-Za-z.]{0,8}",
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn no_request_panics(
        operation: prop::sample::Index,
        parameters in proptest::collection::vec(
            (proptest::collection::vec(step(), 0..6), prop_oneof!["true", "[0-9]{0,22}", any::<String>()]), 0..12),
    ) {
        let operation: &'static Operation = operation.get(ec2::SERVICE.operations);
        let parameters: Vec<(Cow<str>, Cow<str>)> = parameters
            .into_iter()
            .map(|(steps, value)| (Cow::Owned(steps.join(".")), Cow::Owned(value)))
            .collect();
        let _ = decode(operation, &parameters);
    }
}

#[test]
fn every_member_of_every_operation_is_reached_by_its_path() {
    for operation in ec2::SERVICE.operations {
        let input = operation.input();
        for member in input.members() {
            let path = format!("{}.1", member.query);
            let list = matches!(input.at(member.shape).kind, boira_api::Kind::List { .. });
            let place = format!("{} {path}", operation.name);
            // boto 2 counts this one, which AWS takes.
            let counted = list || place == "GetConsoleOutput InstanceId.1";
            match decode(operation, &[(Cow::Owned(path), Cow::Borrowed("\u{1}"))]) {
                Ok(request) => assert!(counted && request.get(member.name).is_some(), "{place}"),
                Err(error) if !counted => assert_eq!(error.code, "UnknownParameter", "{place}"),
                Err(_) => {}
            }
        }
    }
}
