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

#[test]
fn public_addresses_are_as_the_administrator_says_and_found_where_tools_look() {
    let mut cloud = Cloud::new();
    let ask = "&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.AssociatePublicIpAddress=";
    let (with, without) = (
        run(&cloud, &format!("{ask}true")),
        run(&cloud, &format!("{ask}false")),
    );
    assert_eq!(cloud.refusal(&with), "UnsupportedOperation");
    assert!(!cloud.ok(&without).has("<association>"));
    let mut settings = boira_core::Settings::clone(&cloud.state.settings);
    settings.private_address_as_public = true;
    cloud.state.settings = settings.into();
    assert!(!cloud.ok(&without).has("<association>"));
    let reply = cloud.ok(&with);
    let ip = reply.one("ipAddress").to_owned();
    // Of the interface and of its primary address.
    assert_eq!(reply.all("publicIp"), [&ip, &ip]);
    assert_eq!(reply.all("ipOwnerId"), ["amazon"; 2]);
    for (action, filter, item) in [
        (
            "DescribeInstances",
            "network-interface.association.public-ip",
            "instanceState",
        ),
        (
            "DescribeInstances",
            "network-interface.addresses.association.public-ip",
            "instanceState",
        ),
        (
            "DescribeNetworkInterfaces",
            "association.public-ip",
            "macAddress",
        ),
        (
            "DescribeNetworkInterfaces",
            "addresses.association.public-ip",
            "macAddress",
        ),
    ] {
        let query = format!("Action={action}&Filter.1.Name={filter}&Filter.1.Value.1=");
        let reply = cloud.ok(&format!("{query}{ip}"));
        assert_eq!(reply.all(item).len(), 1, "{filter}");
        assert!(reply.has(&format!("<publicIp>{ip}</publicIp>")), "{action}");
        assert_eq!(
            cloud.ok(&format!("{query}192.0.2.1")).all(item).len(),
            0,
            "{filter}"
        );
    }
}

#[test]
fn what_an_instance_has_anyway_may_be_asked_for_and_nothing_else() {
    let mut cloud = Cloud::new();
    let gp3 = "&BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.VolumeType=gp3";
    cloud.ok(&run(
        &cloud,
        &format!(
            "{gp3}&BlockDeviceMapping.1.Ebs.Iops=3000&BlockDeviceMapping.1.Ebs.Throughput=125\
             &InstanceType=t3.micro&CreditSpecification.CpuCredits=standard\
             &CpuOptions.CoreCount=2&CpuOptions.ThreadsPerCore=1\
             &Placement.AvailabilityZoneId=boz1-az1&EbsOptimized=false\
             &CapacityReservationSpecification.CapacityReservationPreference=open"
        ),
    ));
    let volumes = cloud.ok("Action=DescribeVolumes");
    assert_eq!(
        (volumes.one("iops"), volumes.one("throughput")),
        ("3000", "125")
    );
    let gp2 = gp3.replace("gp3", "gp2");
    for (more, code) in [
        (
            &*format!("{gp3}&BlockDeviceMapping.1.Ebs.Iops=4000"),
            "UnsupportedOperation",
        ),
        (
            &*format!("{gp2}&BlockDeviceMapping.1.Ebs.Iops=3000"),
            "InvalidParameterCombination",
        ),
        ("&CpuOptions.CoreCount=2", "UnsupportedOperation"),
        ("&CpuOptions.ThreadsPerCore=2", "UnsupportedOperation"),
        (
            "&Placement.AvailabilityZoneId=use1-az9",
            "InvalidParameterValue",
        ),
        ("&EbsOptimized=true", "Unsupported"),
        (
            "&CapacityReservationSpecification.CapacityReservationPreference=none",
            "UnsupportedOperation",
        ),
        (
            "&CreditSpecification.CpuCredits=standard",
            "InstanceCreditSpecification.NotSupported",
        ),
        ("&CreditSpecification.CpuCredits=lots", "InvalidCpuCredits"),
    ] {
        let query = run(&cloud, more);
        assert_eq!(cloud.refusal(&query), code, "{more}");
    }
}

#[test]
fn a_root_smaller_than_its_image_is_refused_as_a_mapping() {
    let mut cloud = Cloud::new();
    cloud.edit(|draft| {
        let image = draft.state.images.values().next().expect("one");
        let mut image = boira_model::Image::clone(image);
        image.virtual_bytes = 3 << 30;
        draft.put(image);
    });
    let mapping =
        "&BlockDeviceMapping.1.DeviceName=/dev/sda1&BlockDeviceMapping.1.Ebs.VolumeSize=2";
    let query = run(&cloud, mapping);
    let error = cloud.call(&query).err().expect("refused");
    assert_eq!(error.code, "InvalidBlockDeviceMapping");
    assert!(error.message.ends_with("expect size >= 3GB"), "{error}");
}

#[test]
fn more_groups_than_an_interface_has_are_refused_as_such() {
    let mut cloud = Cloud::new();
    let mut more = String::new();
    for number in 1..=17 {
        let reply = cloud.ok(&format!(
            "Action=CreateSecurityGroup&GroupName=g{number}&GroupDescription=d"
        ));
        more += &format!("&SecurityGroupId.{number}={}", reply.one("groupId"));
    }
    let query = run(&cloud, &more);
    assert_eq!(
        cloud.refusal(&query),
        "SecurityGroupsPerInterfaceLimitExceeded"
    );
}

#[test]
fn a_token_knows_its_request_with_dry_run_said_or_unsaid() {
    let mut cloud = Cloud::new();
    let query = run(&cloud, "&ClientToken=t");
    let first = cloud.ok(&query);
    let again = cloud.ok(&format!("{query}&DryRun=false"));
    assert_eq!(first.one("reservationId"), again.one("reservationId"));
}

#[test]
fn values_that_ask_for_what_happens_anyway_are_taken() {
    let mut cloud = Cloud::new();
    let interface = "NetworkInterface.1.DeviceIndex=0&NetworkInterface.1";
    // As the AWS CLI writes --private-ip-address beside --no-associate-public-ip-address.
    let listed = format!(
        "{interface}.PrivateIpAddresses.1.PrivateIpAddress=172.31.0.77\
         &NetworkInterface.1.PrivateIpAddresses.1.Primary=true\
         &NetworkInterface.1.AssociatePublicIpAddress=false&NetworkInterface.1.Ipv6AddressCount=0\
         &NetworkInterface.1.SecondaryPrivateIpAddressCount=0\
         &NetworkInterface.1.PrimaryIpv6=false"
    );
    cloud.launch(1, &format!("&{listed}"));
    let reply = cloud.ok("Action=DescribeInstances");
    assert_eq!(reply.all("privateIpAddress")[0], "172.31.0.77");
    for more in [
        "Ipv6AddressCount=1",
        "SecondaryPrivateIpAddressCount=1",
        "PrimaryIpv6=true",
        "PrivateIpAddresses.1.Primary=false",
        "PrivateIpAddresses.1.PrivateIpAddress=172.31.0.78",
    ] {
        let query = run(&cloud, &format!("&{interface}.{more}"));
        assert_eq!(cloud.refusal(&query), "UnsupportedOperation", "{more}");
    }
}

#[test]
fn types_that_are_always_optimized_for_ebs_may_be_asked_for_it() {
    let mut cloud = Cloud::new();
    let reply = cloud.ok(&run(&cloud, "&InstanceType=t3.nano&EbsOptimized=true"));
    assert_eq!(reply.one("ebsOptimized"), "true");
    let id = boira_model::InstanceId::from(reply.one("instanceId"));
    cloud.observe(&id, boira_model::Observed::Running);
    cloud.stop(&id);
    let modify = format!("Action=ModifyInstanceAttribute&InstanceId={id}&InstanceType.Value=");
    assert_eq!(
        cloud.refusal(&format!("{modify}m1.small")),
        "Unsupported",
        "it would no longer be"
    );
    cloud.ok(&format!("{modify}m1.large"));
    let optimized = |is: bool| {
        format!("Action=DescribeInstances&Filter.1.Name=ebs-optimized&Filter.1.Value.1={is}")
    };
    assert_eq!(cloud.ok(&optimized(true)).all("instanceId"), [id.as_str()]);
    assert_eq!(cloud.ok(&optimized(false)).all("instanceId").len(), 0);
    let query = run(&cloud, "&EbsOptimized=true&InstanceType=m1.small");
    assert_eq!(cloud.refusal(&query), "Unsupported", "m1.small");
    let types = "Action=DescribeInstanceTypes&InstanceType.1";
    for (name, support) in [
        ("t3.nano", "default"),
        ("m1.small", "unsupported"),
        ("m1.large", "supported"),
    ] {
        let reply = cloud.ok(&format!("{types}={name}"));
        assert_eq!(reply.one("ebsOptimizedSupport"), support, "{name}");
    }
}

#[test]
fn only_the_administrator_is_told_which_hosts_have_no_room() {
    let mut cloud = Cloud::new();
    let (host, admin, other) = (
        cloud.host.clone(),
        cloud.account.clone(),
        cloud.other.clone(),
    );
    let name = cloud.state.hosts[&host].name.clone();
    cloud.edit(|draft| {
        let mut row = boira_model::Host::clone(&draft.state.hosts[&host]);
        row.admission = boira_model::Admission::Draining;
        row.note = "the fan is broken".into();
        draft.put(row);
    });
    let query = run(&cloud, "");
    let refusal = |cloud: &mut Cloud, account: &boira_model::AccountId| {
        let error = cloud
            .call_as(account, &query)
            .err()
            .expect("there is no room");
        assert_eq!(error.code, "InsufficientInstanceCapacity");
        error.message
    };
    let told = refusal(&mut cloud, &admin);
    assert!(told.contains(&name) && told.contains("fan"), "{told}");
    let told = refusal(&mut cloud, &other);
    assert!(!told.contains(&name) && !told.contains("fan"), "{told}");
    let dry = cloud.refusal(&format!("{query}&DryRun=true"));
    assert_eq!(dry, "DryRunOperation", "it isn't about room");
}
