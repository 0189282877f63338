//! What DescribeImages shows to whom, and what owners change.

use crate::ec2::testing::Cloud;
use boira_model::*;

/// An image of the second account that nobody else may see.
fn private(cloud: &mut Cloud) -> ImageId {
    let id = ImageId::from_entropy(77);
    let image = Image {
        id: id.clone(),
        number: 2,
        owner: cloud.other.clone(),
        alias: None,
        name: "mine".into(),
        public: false,
        tags: Tags::from([("team".into(), "a".into())]),
        ..Image::clone(&cloud.state.images[&cloud.image])
    };
    cloud.edit(|draft| draft.put(image));
    id
}

fn count(cloud: &mut Cloud, account: &AccountId, more: &str) -> usize {
    let reply = cloud
        .call_as(account, &format!("Action=DescribeImages{more}"))
        .expect(more);
    reply.all("imageId").len()
}

#[test]
fn owners_select_by_word_number_and_alias() {
    let mut cloud = Cloud::new();
    private(&mut cloud);
    let (admin, other) = (cloud.account.clone(), cloud.other.clone());
    for (owner, by_admin, by_other) in [
        ("self".to_owned(), 1, 1),
        ("amazon".to_owned(), 1, 1),
        (admin.to_string(), 1, 1),
        (other.to_string(), 0, 1),
        ("aws-marketplace".to_owned(), 0, 0),
        ("999999999999".to_owned(), 0, 0),
    ] {
        let query = format!("&Owner.1={owner}");
        assert_eq!(
            count(&mut cloud, &admin, &query),
            by_admin,
            "{owner} by admin"
        );
        assert_eq!(
            count(&mut cloud, &other, &query),
            by_other,
            "{owner} by other"
        );
    }
    assert_eq!(count(&mut cloud, &other, "&Owner.1=self&Owner.2=amazon"), 2);
    assert_eq!(
        cloud.refusal("Action=DescribeImages&Owner.1=me"),
        "InvalidUserID.Malformed"
    );
}

#[test]
fn anothers_private_image_does_not_exist() {
    let mut cloud = Cloud::new();
    let id = private(&mut cloud);
    for action in [
        "DescribeImages&ImageId.1",
        "DeregisterImage&ImageId",
        "DescribeImageAttribute&Attribute=description&ImageId",
        "ModifyImageAttribute&Description.Value=x&ImageId",
        "ResetImageAttribute&Attribute=launchPermission&ImageId",
    ] {
        let query = format!("Action={action}={id}");
        assert_eq!(cloud.refusal(&query), "InvalidAMIID.NotFound", "{query}");
    }
    assert_eq!(
        cloud.refusal("Action=DescribeImages&ImageId.1=ami-x"),
        "InvalidAMIID.Malformed"
    );
}

#[test]
fn anothers_public_image_is_seen_and_not_changed() {
    let mut cloud = Cloud::new();
    let (other, image) = (cloud.other.clone(), cloud.image.clone());
    assert_eq!(count(&mut cloud, &other, &format!("&ImageId.1={image}")), 1);
    let error = cloud
        .call_as(&other, &format!("Action=DeregisterImage&ImageId={image}"))
        .err()
        .expect("refused");
    assert_eq!(error.code, "AuthFailure");
}

#[test]
fn launch_permissions_let_an_account_see_and_launch() {
    let mut cloud = Cloud::new();
    let id = private(&mut cloud);
    let (admin, other) = (cloud.account.clone(), cloud.other.clone());
    let change = |how: &str| format!("Action=ModifyImageAttribute&ImageId={id}{how}");
    cloud
        .call_as(
            &other,
            &change(&format!("&LaunchPermission.Add.1.UserId={admin}")),
        )
        .expect("given");
    assert_eq!(count(&mut cloud, &admin, "&ExecutableBy.1=self"), 1);
    assert_eq!(
        count(&mut cloud, &admin, &format!("&ExecutableBy.1={other}")),
        0
    );
    // Tags stay their owner's.
    assert_eq!(
        count(
            &mut cloud,
            &admin,
            "&Filter.1.Name=tag:team&Filter.1.Value.1=a"
        ),
        0
    );
    assert_eq!(
        count(
            &mut cloud,
            &other,
            "&Filter.1.Name=tag:team&Filter.1.Value.1=a"
        ),
        1
    );
    let attribute =
        format!("Action=DescribeImageAttribute&Attribute=launchPermission&ImageId={id}");
    let reply = cloud.call_as(&other, &attribute).expect("his own");
    assert_eq!(reply.one("userId"), admin.as_str());
    let flat = format!("&Attribute=launchPermission&OperationType=remove&UserId.1={admin}");
    cloud.call_as(&other, &change(&flat)).expect("taken");
    assert_eq!(
        cloud.refusal(&format!("Action=DescribeImages&ImageId.1={id}")),
        "InvalidAMIID.NotFound"
    );
    cloud
        .call_as(&other, &change("&LaunchPermission.Add.1.Group=all"))
        .expect("public");
    assert_eq!(
        count(
            &mut cloud,
            &admin,
            "&ExecutableBy.1=all&Filter.1.Name=name&Filter.1.Value.1=mine"
        ),
        1
    );
    cloud
        .call_as(
            &other,
            &format!("Action=ResetImageAttribute&Attribute=launchPermission&ImageId={id}"),
        )
        .expect("reset");
    assert_eq!(
        count(
            &mut cloud,
            &admin,
            "&Filter.1.Name=name&Filter.1.Value.1=mine"
        ),
        0
    );
    let stranger = change("&LaunchPermission.Add.1.UserId=000000000000");
    let error = cloud.call_as(&other, &stranger).err().expect("refused");
    assert_eq!(error.code, "InvalidAMIAttributeItemValue");
}

#[test]
fn attributes_are_modified_one_at_a_time() {
    let mut cloud = Cloud::new();
    let image = cloud.image.clone();
    let change = |how: &str| format!("Action=ModifyImageAttribute&ImageId={image}{how}");
    cloud.ok(&change("&Description.Value=new+words"));
    let reply = cloud.ok(&format!(
        "Action=DescribeImageAttribute&Attribute=description&ImageId={image}"
    ));
    assert!(reply.has("<description><value>new words</value></description>"));
    cloud.ok(&change("&Attribute=Description+&Description.Value=ansible"));
    cloud.ok(&change("&Attribute=description&Value=old+words"));
    assert_eq!(
        cloud.ok("Action=DescribeImages").one("description"),
        "old words"
    );
    for (how, code) in [
        ("", "MissingParameter"),
        (
            "&Attribute=launchPermission&OperationType=add",
            "MissingParameter",
        ),
        (
            "&Attribute=launchPermission&UserGroup.1=all",
            "MissingParameter",
        ),
        (
            "&Attribute=launchPermission&OperationType=add&UserGroup.1=some",
            "InvalidAMIAttributeItemValue",
        ),
        (
            "&Description.Value=a&LaunchPermission.Add.1.Group=all",
            "InvalidParameterCombination",
        ),
        (
            "&Description.Value=a&Value=b",
            "InvalidParameterCombination",
        ),
        (
            "&Attribute=description&Value=b&UserId.1=123456789012",
            "InvalidParameterCombination",
        ),
        (
            "&LaunchPermission.Add.1.Group=all&OperationType=remove",
            "InvalidParameterCombination",
        ),
        (
            "&Attribute=launchPermission&OperationType=add&UserGroup.1=all&Value=b",
            "InvalidParameterCombination",
        ),
        ("&ImdsSupport.Value=v2.0", "UnsupportedOperation"),
        ("&ProductCode.1=abc", "UnsupportedOperation"),
    ] {
        assert_eq!(cloud.refusal(&change(how)), code, "{how}");
    }
}

#[test]
fn every_attribute_of_the_model_has_an_answer() {
    let mut cloud = Cloud::new();
    let image = cloud.image.clone();
    for (attribute, part) in [
        (
            "bootMode",
            "<bootMode><value>legacy-bios</value></bootMode>",
        ),
        ("blockDeviceMapping", "<volumeSize>1</volumeSize>"),
        ("deregistrationProtection", "<value>disabled</value>"),
        ("kernel", "<kernel></kernel>"),
        ("ramdisk", "<ramdisk></ramdisk>"),
        ("launchPermission", "<group>all</group>"),
        ("sriovNetSupport", "<sriovNetSupport></sriovNetSupport>"),
        ("lastLaunchedTime", "<lastLaunchedTime></lastLaunchedTime>"),
    ] {
        let reply = cloud.ok(&format!(
            "Action=DescribeImageAttribute&ImageId={image}&Attribute={attribute}"
        ));
        assert!(reply.has(part), "{attribute}: {}", reply.0);
    }
}

#[test]
fn a_deregistered_image_leaves_its_instances_alone() {
    let mut cloud = Cloud::new();
    let (image, instance) = (cloud.image.clone(), cloud.instance());
    cloud.ok(&format!(
        "Action=EnableImageDeregistrationProtection&ImageId={image}"
    ));
    let deregister = format!("Action=DeregisterImage&ImageId={image}");
    assert_eq!(cloud.refusal(&deregister), "OperationNotPermitted");
    cloud.ok(&format!(
        "Action=DisableImageDeregistrationProtection&ImageId={image}"
    ));
    assert_eq!(cloud.ok(&deregister).one("return"), "true");
    assert_eq!(cloud.refusal(&deregister), "InvalidAMIID.NotFound");
    assert!(!cloud.ok("Action=DescribeImages").has("<imageId>"));
    cloud.stop(&instance);
    cloud.ok(&format!("Action=StartInstances&InstanceId.1={instance}"));
    let volume = &cloud.state.instances[&instance].disks[0];
    assert!(matches!(
        &cloud.state.volumes[volume].source,
        VolumeSource::Image { .. }
    ));
}

#[test]
fn a_deprecated_image_is_listed_to_its_owner_and_to_who_asks_for_it() {
    let mut cloud = Cloud::new();
    let (other, image) = (cloud.other.clone(), cloud.image.clone());
    let at = boira_api::time::format_ms(cloud.now.0 + 3_600_000);
    cloud.ok(&format!(
        "Action=EnableImageDeprecation&ImageId={image}&DeprecateAt={at}"
    ));
    assert_eq!(count(&mut cloud, &other, ""), 1);
    cloud.wait_ms(7_200_000);
    assert_eq!(count(&mut cloud, &other, ""), 0);
    assert_eq!(count(&mut cloud, &other, "&IncludeDeprecated=true"), 1);
    assert_eq!(count(&mut cloud, &other, &format!("&ImageId.1={image}")), 1);
    assert_eq!(cloud.ok("Action=DescribeImages").all("imageId").len(), 1);
    cloud.ok(&format!("Action=DisableImageDeprecation&ImageId={image}"));
    assert_eq!(count(&mut cloud, &other, ""), 1);
    let past = format!("Action=EnableImageDeprecation&ImageId={image}&DeprecateAt={at}");
    assert_eq!(cloud.refusal(&past), "InvalidParameterValue");
    let after_years = |cloud: &mut Cloud, years: i64| {
        let at = boira_api::time::format_ms(cloud.now.0 + years * 365 * 24 * 3_600_000);
        format!("Action=EnableImageDeprecation&ImageId={image}&DeprecateAt={at}")
    };
    let (two, three) = (after_years(&mut cloud, 2), after_years(&mut cloud, 3));
    cloud.ok(&two);
    assert_eq!(
        cloud.refusal(&three),
        "InvalidParameterValue",
        "it is public"
    );
    cloud.ok(&format!(
        "Action=ResetImageAttribute&ImageId={image}&Attribute=launchPermission"
    ));
    cloud.ok(&three);
    let eleven = after_years(&mut cloud, 11);
    assert_eq!(cloud.refusal(&eleven), "InvalidParameterValue");
}

#[test]
fn filters_are_those_that_aws_documents() {
    let mut cloud = Cloud::new();
    let account = cloud.account.clone();
    for (name, value, found) in [
        ("architecture", "x86_64", 1),
        ("root-device-type", "ebs", 1),
        ("virtualization-type", "hvm", 1),
        ("name", "ti*", 1),
        ("name", "Ti*", 0),
        ("is-public", "true", 1),
        ("owner-alias", "amazon", 1),
        ("state", "available", 1),
        ("tag:boira:default", "true", 1),
        ("platform", "windows", 0),
        ("creation-date", "2026-*", 1),
        ("boot-mode", "legacy-bios", 1),
        ("public-ssm-parameter-name", "*", 0),
        (
            "instance-type-specification.supported-instance-type",
            "*",
            0,
        ),
        ("image-watermark.source-image-id", "*", 0),
        ("scan-result.finding-scan-date", "*", 0),
    ] {
        let query = format!("&Filter.1.Name={name}&Filter.1.Value.1={value}");
        assert_eq!(count(&mut cloud, &account, &query), found, "{name}={value}");
    }
    let unknown = "Action=DescribeImages&Filter.1.Name=colour&Filter.1.Value.1=red";
    assert_eq!(cloud.refusal(unknown), "InvalidParameterValue");
}
