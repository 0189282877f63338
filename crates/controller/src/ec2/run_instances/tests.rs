use super::super::testing::Cloud;

/// A launch of one instance, without what a test adds.
fn run(cloud: &Cloud, more: &str) -> String {
    let image = &cloud.image;
    format!("Action=RunInstances&ImageId={image}&MinCount=1&MaxCount=1{more}")
}

#[test]
fn parameters_that_clients_leave_empty_are_absent() {
    let mut cloud = Cloud::new();
    cloud.ok(&run(
        &cloud,
        "&IamInstanceProfile.Name=&SubnetId=&KeyName=&PrivateIpAddress=&UserData=",
    ));
    cloud.ok(&run(
        &cloud,
        "&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.SubnetId=",
    ));
    for profile in ["Name=web", "Arn=arn:aws:iam::1:instance-profile/web"] {
        let query = run(&cloud, &format!("&IamInstanceProfile.{profile}"));
        assert_eq!(cloud.refusal(&query), "UnsupportedOperation");
    }
}

#[test]
fn user_data_is_kept_in_one_spelling_of_base64() {
    let mut cloud = Cloud::new();
    for spelling in ["aGVsbG8=", "aGVsbG8", "aGVs%0AbG8%3D%0A"] {
        let id = cloud.launch(1, &format!("&UserData={spelling}")).remove(0);
        let row = &cloud.state.instances[&id];
        assert_eq!(row.user_data.as_deref(), Some("aGVsbG8="), "{spelling}");
    }
    let query = run(&cloud, "&UserData=!");
    assert_eq!(cloud.refusal(&query), "InvalidParameterValue");
}

#[test]
fn the_one_interface_is_named_in_one_place_and_by_its_index() {
    let mut cloud = Cloud::new();
    for (query, code) in [
        (
            "&NetworkInterface.1.DeviceIndex=0&SecurityGroup.1=default",
            "InvalidParameterCombination",
        ),
        ("&NetworkInterface.1.Description=front", "MissingParameter"),
        ("&NetworkInterface.1.DeviceIndex=1", "InvalidParameterValue"),
    ] {
        let query = run(&cloud, query);
        assert_eq!(cloud.refusal(&query), code, "{query}");
    }
}
