use crate::ec2::testing::Cloud;
use boira_api::ApiError;
use boira_core::wanted::wanted;
use boira_model::{AccountId, Peer, Tags};

const SSH: &str = "IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=22&IpPermissions.1.ToPort=22&IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0/8";

fn group(cloud: &mut Cloud, name: &str) -> String {
    let query = format!("Action=CreateSecurityGroup&GroupName={name}&GroupDescription=for+tests");
    cloud.ok(&query).one("groupId").to_owned()
}

fn code(outcome: Result<crate::ec2::testing::Reply, ApiError>) -> String {
    outcome.err().expect("refused").code.into_owned()
}

#[test]
fn a_new_group_lets_everything_out_and_nothing_in() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    let reply = cloud.ok(&format!("Action=DescribeSecurityGroups&GroupId.1={id}"));
    assert_eq!(reply.one("ipPermissions"), "");
    assert!(
        reply
            .one("ipPermissionsEgress")
            .contains("<cidrIp>0.0.0.0/0</cidrIp>")
    );
    assert_eq!(reply.one("groupName"), "web");
    assert_eq!(reply.one("groupDescription"), "for tests");
    assert_eq!(reply.one("vpcId"), cloud.vpc().id.as_str());
}

#[test]
fn names_are_unique_in_a_vpc_and_follow_the_rules() {
    let mut cloud = Cloud::new();
    group(&mut cloud, "web");
    for (name, text, refused) in [
        ("web", "d", "InvalidGroup.Duplicate"),
        ("WEB", "d", "InvalidGroup.Duplicate"),
        ("default", "d", "InvalidParameterValue"),
        ("sg-web", "d", "InvalidParameterValue"),
        ("", "d", "InvalidParameterValue"),
        ("a%3Cb", "d", "InvalidParameterValue"),
        ("other", "", "MissingParameter"),
        ("other", "a%3Cb", "InvalidParameterValue"),
    ] {
        let query = format!("Action=CreateSecurityGroup&GroupName={name}&GroupDescription={text}");
        assert_eq!(cloud.refusal(&query), refused, "{name} {text}");
    }
    let elsewhere =
        "Action=CreateSecurityGroup&GroupName=web&GroupDescription=d&VpcId=vpc-0123456789abcdef0";
    assert_eq!(cloud.refusal(elsewhere), "InvalidVpcID.NotFound");
    cloud.ok("Action=CreateSecurityGroup&GroupName=packer&GroupDescription=d&VpcId=");
    let other = cloud.other.clone();
    let query = "Action=CreateSecurityGroup&GroupName=web&GroupDescription=d";
    assert!(cloud.call_as(&other, query).is_ok());
}

#[test]
fn rules_are_objects_with_ids_descriptions_and_tags() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    let reply = cloud.ok(&format!(
        "Action=AuthorizeSecurityGroupIngress&GroupId={id}&{SSH}\
         &IpPermissions.1.IpRanges.1.Description=office\
         &TagSpecification.1.ResourceType=security-group-rule\
         &TagSpecification.1.Tag.1.Key=team&TagSpecification.1.Tag.1.Value=x"
    ));
    let rule = reply.one("securityGroupRuleId").to_owned();
    assert_eq!(reply.one("cidrIpv4"), "10.0.0.0/8");
    assert_eq!((reply.one("fromPort"), reply.one("toPort")), ("22", "22"));
    assert_eq!(reply.one("isEgress"), "false");

    let listed = cloud.ok(&format!(
        "Action=DescribeSecurityGroupRules&SecurityGroupRuleId.1={rule}"
    ));
    assert_eq!(listed.one("description"), "office");
    assert_eq!(listed.one("key"), "team");
    let of_group =
        format!("Action=DescribeSecurityGroupRules&Filter.1.Name=group-id&Filter.1.Value.1={id}");
    assert_eq!(cloud.ok(&of_group).all("securityGroupRuleId").len(), 2);
    let tagged =
        cloud.ok("Action=DescribeSecurityGroupRules&Filter.1.Name=tag:team&Filter.1.Value.1=x");
    assert_eq!(tagged.one("securityGroupRuleId"), rule);
    let malformed =
        "Action=DescribeSecurityGroupRules&Filter.1.Name=group-id&Filter.1.Value.1=foobar";
    assert_eq!(cloud.refusal(malformed), "InvalidGroupId.Malformed");
    let unknown = "Action=DescribeSecurityGroupRules&SecurityGroupRuleId.1=sgr-0123456789abcdef0";
    assert_eq!(
        cloud.refusal(unknown),
        "InvalidSecurityGroupRuleId.NotFound"
    );
}

#[test]
fn rules_with_the_same_ports_are_listed_together() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    cloud.ok(&format!(
        "Action=AuthorizeSecurityGroupIngress&GroupId={id}&{SSH}\
         &IpPermissions.1.IpRanges.2.CidrIp=192.168.1.77/16\
         &IpPermissions.1.Groups.1.GroupId={id}"
    ));
    let reply = cloud.ok(&format!("Action=DescribeSecurityGroups&GroupId.1={id}"));
    let ingress = reply.one("ipPermissions").to_owned();
    assert_eq!(ingress.matches("<ipProtocol>").count(), 1);
    assert!(
        ingress.contains("<cidrIp>192.168.0.0/16</cidrIp>"),
        "host bits are cleared"
    );
    assert!(ingress.contains(&format!("<groupId>{id}</groupId>")));
}

#[test]
fn the_flat_form_of_older_clients_works() {
    let mut cloud = Cloud::new();
    let web = group(&mut cloud, "web");
    group(&mut cloud, "db");
    cloud.ok("Action=AuthorizeSecurityGroupIngress&GroupName=web&IpProtocol=tcp&FromPort=80&ToPort=81&CidrIp=0.0.0.0/0");
    let from_group =
        "Action=AuthorizeSecurityGroupIngress&GroupName=web&SourceSecurityGroupName=db";
    let reply = cloud.ok(&format!(
        "{from_group}&SourceSecurityGroupOwnerId={}",
        cloud.account.clone()
    ));
    let mut protocols = reply.all("ipProtocol");
    protocols.sort_unstable();
    assert_eq!(protocols, ["icmp", "tcp", "udp"]);
    assert_eq!(
        cloud.refusal(&format!("{from_group}&IpProtocol=tcp")),
        "InvalidParameterCombination"
    );
    let owner_of_none = format!(
        "Action=AuthorizeSecurityGroupIngress&GroupName=web&IpProtocol=tcp&FromPort=80&ToPort=80\
         &CidrIp=10.0.0.0/8&SourceSecurityGroupOwnerId={}",
        cloud.account.clone()
    );
    assert_eq!(cloud.refusal(&owner_of_none), "InvalidParameterCombination");
    let foreign = format!("{from_group}&SourceSecurityGroupOwnerId=123456789012");
    assert_eq!(cloud.refusal(&foreign), "InvalidGroup.NotFound");
    let both = format!("Action=AuthorizeSecurityGroupIngress&GroupId={web}&CidrIp=0.0.0.0/0&{SSH}");
    assert_eq!(cloud.refusal(&both), "InvalidParameterCombination");
}

#[test]
fn what_is_malformed_or_has_no_effect_is_refused() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    for (rule, refused) in [
        (
            "IpProtocol=tcp&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=tcp&FromPort=9&ToPort=8&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=tcp&FromPort=0&ToPort=65536&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=tcp&FromPort=-1&ToPort=-1&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=icmp&FromPort=-1&ToPort=3&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=icmp&FromPort=300&ToPort=-1&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=all&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=256&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=%2B47&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=06&IpRanges.1.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=-1&IpRanges.1.CidrIp=10.0.0.1",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=-1&IpRanges.1.CidrIp=10.0.0.0/33",
            "InvalidParameterValue",
        ),
        ("IpProtocol=-1", "MissingParameter"),
        ("IpRanges.1.CidrIp=0.0.0.0/0", "InvalidParameterValue"),
        (
            "IpProtocol=-1&Ipv6Ranges.1.CidrIpv6=::/0",
            "UnsupportedOperation",
        ),
        (
            "IpProtocol=icmpv6&IpRanges.1.CidrIp=0.0.0.0/0",
            "UnsupportedOperation",
        ),
        (
            "IpProtocol=-1&PrefixListIds.1.PrefixListId=pl-1",
            "UnsupportedOperation",
        ),
        (
            "IpProtocol=-1&Groups.1.GroupId=sg-0123456789abcdef0",
            "InvalidGroup.NotFound",
        ),
        (
            "IpProtocol=-1&Groups.1.GroupId=rubbish",
            "InvalidGroupId.Malformed",
        ),
        (
            "IpProtocol=-1&Groups.1.GroupName=nobody",
            "InvalidGroup.NotFound",
        ),
        (
            "IpProtocol=-1&IpRanges.1.CidrIp=0.0.0.0/0&IpRanges.1.Description=%3C",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=-1&IpRanges.1.CidrIp=0.0.0.0/0&IpRanges.2.CidrIp=0.0.0.0/0",
            "InvalidParameterValue",
        ),
    ] {
        let parts: String = rule
            .split('&')
            .map(|part| format!("&IpPermissions.1.{part}"))
            .collect();
        let query = format!("Action=AuthorizeSecurityGroupIngress&GroupId={id}{parts}");
        assert_eq!(cloud.refusal(&query), refused, "{rule}");
    }
}

#[test]
fn a_duplicate_is_refused_and_an_unknown_rule_is_told_when_it_is_to_be_revoked() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    let authorize = format!("Action=AuthorizeSecurityGroupIngress&GroupId={id}&{SSH}");
    cloud.ok(&authorize);
    assert_eq!(cloud.refusal(&authorize), "InvalidPermission.Duplicate");
    let another = authorize.replace("10.0.0.0/8", "10.0.0.0/9");
    let reply = cloud.ok(&another.replace("Authorize", "Revoke"));
    assert_eq!(reply.one("cidrIp"), "10.0.0.0/9");
    assert!(
        reply
            .one("unknownIpPermissionSet")
            .contains("<fromPort>22</fromPort>")
    );
    assert_eq!(reply.one("revokedSecurityGroupRuleSet"), "");
    // Ingress rules are none of egress.
    let reply =
        cloud.ok(&authorize.replace("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupEgress"));
    assert_eq!(reply.one("cidrIp"), "10.0.0.0/8");
    let gone = cloud.ok(&authorize.replace("Authorize", "Revoke"));
    assert_eq!(gone.one("cidrIpv4"), "10.0.0.0/8");
    let reply = cloud.ok(&format!("Action=DescribeSecurityGroups&GroupId.1={id}"));
    assert_eq!(reply.one("ipPermissions"), "");
}

#[test]
fn rules_are_revoked_by_their_ids_all_or_none() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    let rule = |cloud: &mut Cloud, port: u16| {
        let query = format!("Action=AuthorizeSecurityGroupIngress&GroupId={id}&{SSH}");
        let query = query.replace("ToPort=22", &format!("ToPort={port}"));
        cloud.ok(&query).one("securityGroupRuleId").to_owned()
    };
    let (first, second) = (rule(&mut cloud, 22), rule(&mut cloud, 23));
    let revoke =
        format!("Action=RevokeSecurityGroupIngress&GroupId={id}&SecurityGroupRuleId.1={first}");
    let with_unknown = format!("{revoke}&SecurityGroupRuleId.2=sgr-0123456789abcdef0");
    assert_eq!(
        cloud.refusal(&with_unknown),
        "InvalidSecurityGroupRuleId.NotFound"
    );
    cloud.ok(&format!("{revoke}&SecurityGroupRuleId.2={second}"));
    let reply = cloud.ok(&format!("Action=DescribeSecurityGroups&GroupId.1={id}"));
    assert_eq!(reply.one("ipPermissions"), "");
}

#[test]
fn rules_and_descriptions_are_modified_in_place() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    let reply = cloud.ok(&format!(
        "Action=AuthorizeSecurityGroupIngress&GroupId={id}&{SSH}"
    ));
    let rule = reply.one("securityGroupRuleId").to_owned();
    let modify = format!(
        "Action=ModifySecurityGroupRules&GroupId={id}&SecurityGroupRule.1.SecurityGroupRuleId={rule}"
    );
    for (members, code) in [
        (
            "FromPort=1&ToPort=2&CidrIpv4=2.3.4.5/32",
            "InvalidParameterValue",
        ),
        (
            "IpProtocol=udp&ToPort=2&CidrIpv4=2.3.4.5/32",
            "InvalidParameterValue",
        ),
        ("IpProtocol=udp&FromPort=1&ToPort=2", "MissingParameter"),
        (
            "IpProtocol=udp&FromPort=1&ToPort=2&CidrIpv4=2.3.4.5/32&CidrIpv6=2001:db8::/32",
            "InvalidParameterCombination",
        ),
        (
            "IpProtocol=udp&FromPort=1&ToPort=2&CidrIpv6=2001:db8::/32",
            "UnsupportedOperation",
        ),
    ] {
        let members = members.replace('&', "&SecurityGroupRule.1.SecurityGroupRule.");
        let asked = format!("{modify}&SecurityGroupRule.1.SecurityGroupRule.{members}");
        assert_eq!(cloud.refusal(&asked), code, "{members}");
    }
    cloud.ok(&format!(
        "{modify}&SecurityGroupRule.1.SecurityGroupRule.IpProtocol=udp\
         &SecurityGroupRule.1.SecurityGroupRule.FromPort=53&SecurityGroupRule.1.SecurityGroupRule.ToPort=53\
         &SecurityGroupRule.1.SecurityGroupRule.ReferencedGroupId={id}"
    ));
    let rules = format!("Action=DescribeSecurityGroupRules&SecurityGroupRuleId.1={rule}");
    let reply = cloud.ok(&rules);
    assert_eq!(
        (reply.one("ipProtocol"), reply.all("cidrIpv4").len()),
        ("udp", 0)
    );
    assert!(reply.one("referencedGroupInfo").contains(&id));

    cloud.ok(&format!(
        "Action=UpdateSecurityGroupRuleDescriptionsIngress&GroupId={id}\
         &SecurityGroupRuleDescription.1.SecurityGroupRuleId={rule}&SecurityGroupRuleDescription.1.Description=dns"
    ));
    assert_eq!(cloud.ok(&rules).one("description"), "dns");
    cloud.ok(&format!(
        "Action=UpdateSecurityGroupRuleDescriptionsIngress&GroupId={id}&IpPermissions.1.IpProtocol=udp\
         &IpPermissions.1.FromPort=53&IpPermissions.1.ToPort=53&IpPermissions.1.Groups.1.GroupId={id}"
    ));
    assert_eq!(
        cloud.ok(&rules).all("description").len(),
        0,
        "left out, it is removed"
    );
    let egress = "Action=UpdateSecurityGroupRuleDescriptionsEgress";
    assert_eq!(
        cloud.refusal(&format!(
            "{egress}&GroupId={id}&SecurityGroupRuleDescription.1.SecurityGroupRuleId={rule}"
        )),
        "InvalidSecurityGroupRuleId.NotFound"
    );
}

#[test]
fn a_group_in_use_stays() {
    let mut cloud = Cloud::new();
    let (web, db) = (group(&mut cloud, "web"), group(&mut cloud, "db"));
    let instance = cloud
        .launch(1, &format!("&SecurityGroupId.1={web}"))
        .remove(0);
    assert_eq!(
        cloud.refusal(&format!("Action=DeleteSecurityGroup&GroupId={web}")),
        "DependencyViolation"
    );
    cloud.ok(&format!(
        "Action=AuthorizeSecurityGroupIngress&GroupId={web}&IpPermissions.1.IpProtocol=-1&IpPermissions.1.Groups.1.GroupId={db}"
    ));
    assert_eq!(
        cloud.refusal("Action=DeleteSecurityGroup&GroupName=db"),
        "DependencyViolation"
    );
    let default = cloud.vpc().default_group;
    assert_eq!(
        cloud.refusal(&format!("Action=DeleteSecurityGroup&GroupId={default}")),
        "CannotDelete"
    );

    cloud.ok(&format!(
        "Action=TerminateInstances&InstanceId.1={instance}"
    ));
    cloud.edit(|draft| boira_core::observe::release(draft, &instance));
    cloud.ok(&format!("Action=DeleteSecurityGroup&GroupId={web}"));
    cloud.ok("Action=DeleteSecurityGroup&GroupName=db");
    assert_eq!(
        cloud.refusal(&format!("Action=DeleteSecurityGroup&GroupId={web}")),
        "InvalidGroup.NotFound"
    );
}

#[test]
fn a_group_has_up_to_sixty_rules_in_each_direction() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    let rules = |from: u8, to: u8| -> String {
        let range = |n: u8| {
            format!(
                "&IpPermissions.1.IpRanges.{}.CidrIp=10.{n}.0.0/16",
                n - from + 1
            )
        };
        (from..to).map(range).collect()
    };
    let authorize =
        format!("Action=AuthorizeSecurityGroupIngress&GroupId={id}&IpPermissions.1.IpProtocol=-1");
    cloud.ok(&format!("{authorize}{}", rules(0, 60)));
    assert_eq!(
        cloud.refusal(&format!("{authorize}{}", rules(60, 61))),
        "RulesPerSecurityGroupLimitExceeded"
    );
    cloud.ok(&format!(
        "{}{}",
        authorize.replace("Ingress", "Egress"),
        rules(0, 59)
    ));
}

#[test]
fn another_account_s_group_does_not_exist() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    let other = cloud.other.clone();
    for query in [
        format!("Action=DescribeSecurityGroups&GroupId.1={id}"),
        format!("Action=DeleteSecurityGroup&GroupId={id}"),
        format!("Action=AuthorizeSecurityGroupIngress&GroupId={id}&{SSH}"),
        "Action=DescribeSecurityGroups&GroupName.1=web".to_owned(),
    ] {
        assert_eq!(
            code(cloud.call_as(&other, &query)),
            "InvalidGroup.NotFound",
            "{query}"
        );
    }
    let own = cloud
        .call_as(&other, "Action=DescribeSecurityGroups")
        .expect("allowed");
    assert_eq!(own.one("groupName"), "default");
}

#[test]
fn groups_are_found_by_their_rules() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    cloud.ok(&format!(
        "Action=AuthorizeSecurityGroupIngress&GroupId={id}&{SSH}"
    ));
    for (name, value) in [
        ("ip-permission.from-port", "22"),
        ("ip-permission.cidr", "10.*"),
        ("ip-permission.protocol", "tcp"),
        ("group-name", "w?b"),
        ("group-id", id.as_str()),
    ] {
        let query =
            format!("Action=DescribeSecurityGroups&Filter.1.Name={name}&Filter.1.Value.1={value}");
        assert_eq!(cloud.ok(&query).one("groupName"), "web", "{name}");
    }
    let none = "Action=DescribeSecurityGroups&Filter.1.Name=egress.ip-permission.from-port&Filter.1.Value.1=22";
    assert_eq!(cloud.ok(none).all("groupName").len(), 0);
}

#[test]
fn a_new_rule_is_wanted_on_the_hosts_of_running_instances() {
    let mut cloud = Cloud::new();
    cloud.instance();
    let default = cloud.vpc().default_group;
    let before = cloud.state.revision(&cloud.host);
    cloud.ok(&format!(
        "Action=AuthorizeSecurityGroupIngress&GroupId={default}&{SSH}"
    ));
    assert!(cloud.state.revision(&cloud.host) > before);
    let wanted = wanted(&cloud.state, &cloud.host, &());
    let group = wanted.network[0]
        .groups
        .iter()
        .find(|row| row.id == default)
        .expect("in use");
    let cidr = Peer::Cidr("10.0.0.0/8".parse().expect("a CIDR"));
    assert!(group.ingress.iter().any(|(_, peer)| *peer == cidr));
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut cloud = Cloud::new();
    let create = "Action=CreateSecurityGroup&GroupName=web&GroupDescription=d&DryRun=true";
    assert_eq!(cloud.refusal(create), "DryRunOperation");
    let nobody = AccountId::from("000000000000");
    assert_eq!(
        code(cloud.call_as(&nobody, &create.replace("&DryRun=true", ""))),
        "VPCIdNotSpecified"
    );
}

#[test]
fn terraform_takes_the_first_rules_of_a_new_group_away() {
    let mut cloud = Cloud::new();
    let id = group(&mut cloud, "web");
    let revoke = format!(
        "Action=RevokeSecurityGroupEgress&GroupId={id}&IpPermissions.1.IpProtocol=-1&IpPermissions.1.FromPort=0&IpPermissions.1.ToPort=0"
    );
    cloud.ok(&format!(
        "{revoke}&IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0"
    ));
    let ipv6 = format!("{revoke}&IpPermissions.1.Ipv6Ranges.1.CidrIpv6=::/0");
    assert_eq!(cloud.refusal(&ipv6), "InvalidPermission.NotFound");
}

#[test]
fn an_account_has_a_limit_of_groups() {
    let mut cloud = Cloud::new();
    let (owner, vpc) = (cloud.account.clone(), cloud.vpc().id);
    cloud.edit(|draft| {
        // One is there already: the default group.
        for n in 1..boira_core::group::MAX_GROUPS {
            let (name, text) = (format!("g{n}"), "d".to_owned());
            boira_core::group::create(draft, &owner, &vpc, name, text, Tags::new()).expect("room");
        }
    });
    let one_more = "Action=CreateSecurityGroup&GroupName=web&GroupDescription=d";
    assert_eq!(cloud.refusal(one_more), "SecurityGroupLimitExceeded");
}

#[test]
fn rules_are_tagged_wherever_they_are() {
    let mut cloud = Cloud::new();
    let mut rules = Vec::new();
    let mut groups = Vec::new();
    for name in ["web", "database"] {
        let id = group(&mut cloud, name);
        for port in [22, 23] {
            let query = format!("Action=AuthorizeSecurityGroupIngress&GroupId={id}&{SSH}");
            let query = query.replace("ToPort=22", &format!("ToPort={port}"));
            rules.push(cloud.ok(&query).one("securityGroupRuleId").to_owned());
        }
        groups.push(id);
    }
    let named = [&rules[0], &groups[0], &rules[3], &rules[1]];
    let mut tag = "Action=CreateTags&Tag.1.Key=for&Tag.1.Value=all".to_owned();
    for (index, id) in named.iter().enumerate() {
        tag += &format!("&ResourceId.{}={id}", index + 1);
    }
    let unknown = format!("{tag}&ResourceId.5=sgr-0123456789abcdef0");
    assert!(cloud.call(&unknown).is_err());
    let other = cloud.other.clone();
    assert!(cloud.call_as(&other, &tag).is_err(), "they are not theirs");
    let tagged = |cloud: &mut Cloud| {
        let query = "Action=DescribeTags&Filter.1.Name=key&Filter.1.Value.1=for";
        let reply = cloud.ok(query);
        let mut ids: Vec<_> = reply
            .all("resourceId")
            .iter()
            .map(ToString::to_string)
            .collect();
        ids.sort();
        ids
    };
    assert!(tagged(&mut cloud).is_empty());
    cloud.ok(&tag);
    let mut named: Vec<_> = named.into_iter().cloned().collect();
    named.sort();
    assert_eq!(tagged(&mut cloud), named);
    cloud.ok(&tag.replace("CreateTags", "DeleteTags"));
    assert!(tagged(&mut cloud).is_empty());
}
