use crate::ec2::testing::Cloud;

#[test]
fn settings_that_are_always_the_same_read_as_aws_answers() {
    let mut cloud = Cloud::new();
    for (action, element, value) in [
        (
            "GetEbsEncryptionByDefault",
            "ebsEncryptionByDefault",
            "false",
        ),
        (
            "DisableEbsEncryptionByDefault",
            "ebsEncryptionByDefault",
            "false",
        ),
        ("GetEbsDefaultKmsKeyId", "kmsKeyId", "alias/aws/ebs"),
        (
            "GetSerialConsoleAccessStatus",
            "serialConsoleAccessEnabled",
            "false",
        ),
        (
            "DisableSerialConsoleAccess",
            "serialConsoleAccessEnabled",
            "false",
        ),
        ("GetInstanceMetadataDefaults", "managedBy", "account"),
        (
            "GetImageBlockPublicAccessState",
            "imageBlockPublicAccessState",
            "unblocked",
        ),
        ("GetSnapshotBlockPublicAccessState", "state", "unblocked"),
        ("GetAllowedImagesSettings", "state", "disabled"),
        (
            "DescribeVpcBlockPublicAccessOptions",
            "internetGatewayBlockMode",
            "off",
        ),
        (
            "GetDefaultCreditSpecification&InstanceFamily=t3",
            "cpuCredits",
            "unlimited",
        ),
        (
            "GetDefaultCreditSpecification&InstanceFamily=t2",
            "cpuCredits",
            "standard",
        ),
    ] {
        let reply = cloud.ok(&format!("Action={action}"));
        assert_eq!(reply.one(element), value, "{action}");
    }
    for (query, code) in [
        ("EnableEbsEncryptionByDefault", "UnsupportedOperation"),
        (
            "GetDefaultCreditSpecification&InstanceFamily=m5",
            "InvalidParameterValue",
        ),
        (
            "DescribeSpotDatafeedSubscription",
            "InvalidSpotDatafeed.NotFound",
        ),
        ("CreateDefaultVpc", "DefaultVpcAlreadyExists"),
        ("CreateDefaultSubnet", "MissingParameter"),
        (
            "CreateDefaultSubnet&AvailabilityZone=nowhere",
            "InvalidParameterValue",
        ),
    ] {
        assert_eq!(cloud.refusal(&format!("Action={query}")), code, "{query}");
    }
    let zone = cloud.state.zones.values().next().expect("a zone").clone();
    for named in [
        format!("AvailabilityZone={}", zone.name),
        format!("AvailabilityZoneId={}", zone.id),
    ] {
        assert_eq!(
            cloud.refusal(&format!("Action=CreateDefaultSubnet&{named}")),
            "DefaultSubnetAlreadyExistsInAvailabilityZone"
        );
    }
}

#[test]
fn groups_are_listed_by_their_vpc() {
    let mut cloud = Cloud::new();
    cloud.ok("Action=CreateSecurityGroup&GroupName=web&GroupDescription=d");
    let vpc = cloud.ok("Action=DescribeVpcs").one("vpcId").to_owned();
    let list = format!("Action=GetSecurityGroupsForVpc&VpcId={vpc}");
    assert_eq!(cloud.ok(&list).all("groupName"), ["default", "web"]);
    let named = format!("{list}&Filter.1.Name=group-name&Filter.1.Value.1=w*");
    assert_eq!(cloud.ok(&named).all("groupName"), ["web"]);
    let other = "Action=GetSecurityGroupsForVpc&VpcId=vpc-01234567";
    assert_eq!(cloud.refusal(other), "InvalidVpcID.NotFound");
}

#[test]
fn what_always_answers_the_same_has_one_row_each() {
    assert!(super::FIXED.is_sorted_by_key(|(action, _)| action));
}
