//! CreateTags, DeleteTags, DescribeTags, and tags that come with the creation of something.

use super::describe::{Listing, PAGE};
use super::{Call, Outcome, refusals, strings};
use boira_api::output::ec2::TagDescription;
use boira_api::value::{Struct, Value};
use boira_api::{ApiError, id, xml};
use boira_core::tag::{self, MAX_TAGS, Unwanted};
use boira_core::{Draft, Refusal, policy};
use boira_model::Tags;
use boira_store::Snapshot;
use std::sync::Arc;

/// Resources that one call may name.
const MAX_RESOURCES: usize = 1000;
/// Tags that one DeleteTags may name.
const MAX_UNWANTED: usize = 1000;

static LISTING: Listing = Listing {
    ids: None,
    filters: &["key", "resource-id", "resource-type", "value"],
    tagged: true,
    page: PAGE,
};

pub fn create(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["Resources", "Tags"])?;
    let resources = resources(call)?;
    let tags = read(call.request.list("Tags"))?;
    tag::create(draft, &call.account, &resources, &tags).map_err(refusals::error)?;
    call.done()
}

pub fn delete(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["Resources", "Tags"])?;
    let resources = resources(call)?;
    let unwanted = unwanted(call.request.list("Tags"))?;
    let unwanted = (!unwanted.is_empty()).then_some(&unwanted[..]);
    tag::delete(draft, &call.account, &resources, unwanted).map_err(refusals::error)?;
    call.done()
}

fn resources(call: &Call) -> Result<Vec<String>, ApiError> {
    let ids = strings(&call.request, "Resources");
    if ids.is_empty() {
        return Err(ApiError::missing_parameter("ResourceId"));
    }
    if ids.len() > MAX_RESOURCES {
        return Err(ApiError::invalid_parameter_value(format!(
            "A call may name up to {MAX_RESOURCES} resources."
        )));
    }
    for id in &ids {
        id::kind_of(id)
            .ok_or_else(|| id::invalid_id(id))?
            .validate(id)?;
    }
    Ok(ids)
}

fn unwanted(list: &[Value]) -> Result<Vec<Unwanted>, ApiError> {
    if list.len() > MAX_UNWANTED {
        return Err(ApiError::invalid_parameter_value(format!(
            "A call may delete up to {MAX_UNWANTED} tags."
        )));
    }
    list.iter()
        .filter_map(Value::as_struct)
        .map(|tag| {
            let key = tag.str("Key").filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| ApiError::missing_parameter("Tag.Key"))?;
            refuse_reserved(key)?;
            Ok((key.to_owned(), tag.str("Value").map(str::to_owned)))
        })
        .collect()
}

/// One tag of one resource. Pages go by resource and key.
struct Line {
    place: String,
    id: String,
    kind: &'static str,
    key: String,
    value: String,
}

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = LISTING.ask(call, state)?;
    let mut lines: Vec<Line> = tag::all(state, &call.account)
        .iter()
        .flat_map(|of| {
            of.tags.iter().map(|(key, value)| Line {
                place: format!("{} {key}", of.id),
                id: of.id.to_owned(),
                kind: of.kind,
                key: key.clone(),
                value: value.clone(),
            })
        })
        .collect();
    lines.sort_unstable_by(|a, b| a.place.cmp(&b.place));
    let passes = |line: &Line| {
        ask.filters.match_resource(
            || std::iter::once((line.key.as_str(), line.value.as_str())),
            |name, test| match name {
                "key" => test(&line.key),
                "resource-id" => test(&line.id),
                "resource-type" => test(line.kind),
                "value" => test(&line.value),
                _ => false,
            },
        )
    };
    let page = ask.select_from(lines, |line| &line.place, passes)?;
    ask.list("Tags", page, |_, line| {
        TagDescription::new()
            .key(line.key)
            .resource_id(line.id)
            .resource_type(line.kind)
            .value(line.value)
            .into()
    })
}

/// The tags for the one kind of resource that an action creates.
///
/// # Errors
/// `InvalidParameterValue` for another kind or a tag against the rules, `TagLimitExceeded`.
pub fn of_specifications(request: &Struct, kind: &str) -> Result<Tags, ApiError> {
    let [tags] = of_specifications_by(request, [kind])?;
    Ok(tags)
}

/// [`of_specifications`] for actions that create several kinds at once.
pub fn of_specifications_by<const N: usize>(
    request: &Struct,
    kinds: [&str; N],
) -> Result<[Tags; N], ApiError> {
    let mut all = [const { Tags::new() }; N];
    let mut seen = [false; N];
    for one in request
        .list("TagSpecifications")
        .iter()
        .filter_map(Value::as_struct)
    {
        let kind = one.str("ResourceType").ok_or_else(|| {
            ApiError::invalid_parameter_value("Tag specification resource type must have a value")
        })?;
        let index = kinds
            .iter()
            .position(|known| *known == kind)
            .ok_or_else(|| {
                ApiError::invalid_parameter_value(format!(
                    "'{kind}' is not a valid taggable resource type for this operation."
                ))
            })?;
        if std::mem::replace(&mut seen[index], true) {
            return Err(ApiError::invalid_parameter_value(format!(
                "Duplicate resource type '{kind}' found in tag specifications"
            )));
        }
        if one.list("Tags").is_empty() {
            return Err(ApiError::invalid_parameter_value(
                "Tag specification must have at least one tag",
            ));
        }
        all[index] = read(one.list("Tags"))?;
    }
    Ok(all)
}

/// Tags of a request, under EC2's rules ("Tag restrictions").
pub fn read(list: &[Value]) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for tag in list.iter().filter_map(Value::as_struct) {
        let key = tag.str("Key").unwrap_or_default();
        let value = tag.str("Value").ok_or_else(|| {
            ApiError::invalid_parameter_value("Tag value cannot be null. Use empty string instead.")
        })?;
        if key.is_empty() || key.chars().count() > 127 {
            return Err(ApiError::invalid_parameter_value(
                "Tag keys have between 1 and 127 Unicode characters",
            ));
        }
        refuse_reserved(key)?;
        if !key.chars().chain(value.chars()).all(xml::is_character) {
            return Err(ApiError::invalid_parameter_value(
                "Tags have no control characters",
            ));
        }
        policy::check(key, value).map_err(ApiError::invalid_parameter_value)?;
        if value.chars().count() > 256 {
            return Err(ApiError::invalid_parameter_value(
                "Tag values have up to 256 Unicode characters",
            ));
        }
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(ApiError::invalid_parameter_value(format!(
                "Duplicate tag key '{key}' specified."
            )));
        }
    }
    match tags.len() > MAX_TAGS {
        true => Err(refusals::error(Refusal::TooManyTags)),
        false => Ok(tags),
    }
}

fn refuse_reserved(key: &str) -> Result<(), ApiError> {
    let reserved = key
        .get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case("aws:"));
    match reserved {
        true => Err(ApiError::invalid_parameter_value(
            "Tag keys starting with 'aws:' are reserved for internal use",
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::ec2::testing::Cloud;
    use boira_model::AccountId;

    #[test]
    fn every_kind_of_resource_is_tagged_listed_and_untagged() {
        let mut cloud = Cloud::new();
        let instance = cloud.instance();
        let row = cloud.state.instances[&instance].clone();
        cloud.ok("Action=ImportKeyPair&KeyName=k&PublicKeyMaterial=c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSUJ1M0RrQ2JqSEI2cHI2cVJIVFpRSkZlMzlVMVRaZXpXQ1QzUTJRSXFGOWM=");
        let key = cloud
            .state
            .key_pairs
            .keys()
            .next()
            .expect("imported")
            .clone();
        let vpc = cloud.vpc();
        let rule = cloud.state.groups[&vpc.default_group].rules[0].id.clone();
        let resources = [
            (instance.as_str(), "instance"),
            (row.disks[0].as_str(), "volume"),
            (row.interfaces[0].as_str(), "network-interface"),
            (row.subnet.as_str(), "subnet"),
            (row.image.as_str(), "image"),
            (key.as_str(), "key-pair"),
            (vpc.id.as_str(), "vpc"),
            (vpc.default_group.as_str(), "security-group"),
            (rule.as_str(), "security-group-rule"),
            (vpc.gateway.as_str(), "internet-gateway"),
            (vpc.main_route_table.as_str(), "route-table"),
            (vpc.acl.as_str(), "network-acl"),
            (vpc.dhcp_options.as_str(), "dhcp-options"),
        ];
        let list: String = resources
            .iter()
            .enumerate()
            .map(|(n, (id, _))| format!("&ResourceId.{}={id}", n + 1))
            .collect();
        cloud.ok(&format!(
            "Action=CreateTags{list}&Tag.1.Key=a&Tag.1.Value=1&Tag.2.Key=b&Tag.2.Value="
        ));
        for (id, kind) in resources {
            let reply = cloud.ok(&format!(
                "Action=DescribeTags&Filter.1.Name=resource-id&Filter.1.Value.1={id}"
            ));
            let wanted = if kind == "image" {
                vec!["a", "b", "boira:default"]
            } else {
                vec!["a", "b"]
            };
            assert_eq!(reply.all("key"), wanted, "{id}");
            assert!(
                reply.all("resourceType").iter().all(|found| *found == kind),
                "{id}"
            );
        }
        cloud.ok(&format!(
            "Action=DeleteTags{list}&Tag.1.Key=a&Tag.2.Key=b&Tag.2.Value=other"
        ));
        let left =
            cloud.ok("Action=DescribeTags&Filter.1.Name=key&Filter.1.Value.1=a&Filter.1.Value.2=b");
        assert_eq!(left.all("key"), vec!["b"; resources.len()]);
        cloud.ok(&format!("Action=DeleteTags{list}"));
        assert_eq!(cloud.ok("Action=DescribeTags").all("key").len(), 0);
    }

    #[test]
    fn one_bad_id_changes_none() {
        let mut cloud = Cloud::new();
        let good = cloud.instance();
        let tag = "Tag.1.Key=a&Tag.1.Value=1";
        for (bad, code) in [
            ("i-0123456789abcdef0", "InvalidInstanceID.NotFound"),
            ("igw-0123456789abcdef0", "InvalidInternetGatewayID.NotFound"),
            ("r-0123456789abcdef0", "InvalidReservationID.NotFound"),
            ("i-nothex", "InvalidInstanceID.Malformed"),
            ("rubbish", "InvalidID"),
        ] {
            let query = format!("Action=CreateTags&ResourceId.1={good}&ResourceId.2={bad}&{tag}");
            assert_eq!(cloud.refusal(&query), code);
        }
        let other = cloud.other.clone();
        let error = cloud.call_as(
            &other,
            &format!("Action=CreateTags&ResourceId.1={good}&{tag}"),
        );
        assert_eq!(
            error.err().expect("refused").code,
            "InvalidInstanceID.NotFound"
        );
    }

    #[test]
    fn who_tags_an_image_of_somebody_else_sees_his_own_tags_alone() {
        let mut cloud = Cloud::new();
        let (admin, other) = (cloud.account.clone(), cloud.other.clone());
        let image = cloud.image.clone();
        let mut tag = |who: &AccountId, key: &str| {
            let query =
                format!("Action=CreateTags&ResourceId.1={image}&Tag.1.Key={key}&Tag.1.Value={who}");
            cloud.call_as(who, &query).expect("it may be tagged");
        };
        tag(&admin, "team");
        tag(&admin, "boira:user");
        tag(&other, "team");
        let seen = |cloud: &mut Cloud, who: &AccountId, query: &str| {
            let reply = cloud.call_as(who, query).expect("it is seen");
            let all = |name: &str| -> Vec<String> {
                let mut all: Vec<_> = reply.all(name).into_iter().map(Into::into).collect();
                all.sort_unstable();
                all
            };
            (all("key"), all("value"))
        };
        let describe = format!("Action=DescribeImages&ImageId.1={image}");
        let (keys, values) = seen(&mut cloud, &other, &describe);
        assert_eq!(keys, ["boira:default", "boira:user", "team"]);
        assert!(values.contains(&other.to_string()), "{values:?}");
        let of_other = format!("{describe}&Filter.1.Name=tag:team&Filter.1.Value.1={other}");
        assert_eq!(seen(&mut cloud, &other, &of_other).0, keys);
        assert_eq!(seen(&mut cloud, &admin, &of_other).0.len(), 0);
        let lines = seen(&mut cloud, &other, "Action=DescribeTags");
        assert_eq!(lines, (vec!["team".into()], vec![other.to_string()]));
        let remove = format!("Action=DeleteTags&ResourceId.1={image}&Tag.1.Key=team");
        cloud.call_as(&other, &remove).expect("it is his");
        assert_eq!(seen(&mut cloud, &other, "Action=DescribeTags").0.len(), 0);
        let (keys, _) = seen(&mut cloud, &admin, &describe);
        assert!(keys.contains(&"team".into()), "{keys:?}");
        let row = &cloud.state.images[&image];
        assert!(row.tags_of_others.is_empty(), "nothing is left behind");
    }

    #[test]
    fn the_fifty_first_tag_is_refused() {
        let mut cloud = Cloud::new();
        let id = cloud.instance();
        let tags = |from: usize, to: usize| -> String {
            (from..to)
                .map(|n| {
                    format!(
                        "&Tag.{}.Key=k{n}&Tag.{}.Value=v",
                        n - from + 1,
                        n - from + 1
                    )
                })
                .collect()
        };
        cloud.ok(&format!(
            "Action=CreateTags&ResourceId.1={id}{}",
            tags(0, 50)
        ));
        cloud.ok(&format!(
            "Action=CreateTags&ResourceId.1={id}{}",
            tags(0, 5)
        ));
        let more = format!("Action=CreateTags&ResourceId.1={id}{}", tags(50, 51));
        assert_eq!(cloud.refusal(&more), "TagLimitExceeded");
        let many = format!("Action=CreateTags&ResourceId.1={id}{}", tags(0, 51));
        assert_eq!(cloud.refusal(&many), "TagLimitExceeded");
    }

    #[test]
    fn keys_and_values_follow_the_rules() {
        let mut cloud = Cloud::new();
        let id = cloud.instance();
        let long = "é".repeat(128);
        for tag in [
            "Tag.1.Key=aws:x&Tag.1.Value=1",
            "Tag.1.Key=x&Tag.1.Value=a%01b",
            "Tag.1.Key=AWS:x&Tag.1.Value=1",
            "Tag.1.Key=a",
            "Tag.1.Key=&Tag.1.Value=1",
            &format!("Tag.1.Key={long}&Tag.1.Value=1"),
            &format!("Tag.1.Key=a&Tag.1.Value={long}{long}x"),
            "Tag.1.Key=a&Tag.1.Value=1&Tag.2.Key=a&Tag.2.Value=2",
        ] {
            let query = format!("Action=CreateTags&ResourceId.1={id}&{tag}");
            assert_eq!(cloud.refusal(&query), "InvalidParameterValue", "{tag}");
        }
        cloud.ok(&format!(
            "Action=CreateTags&ResourceId.1={id}&Tag.1.Key=a&Tag.1.Value={long}{long}"
        ));
        assert_eq!(
            cloud.refusal(&format!(
                "Action=DeleteTags&ResourceId.1={id}&Tag.1.Key=aws:x"
            )),
            "InvalidParameterValue"
        );
    }

    #[test]
    fn a_changed_tag_reaches_the_instance_s_host() {
        let mut cloud = Cloud::new();
        let id = cloud.instance();
        let before = cloud.state.revision(&cloud.host);
        cloud.ok(&format!(
            "Action=CreateTags&ResourceId.1={id}&Tag.1.Key=a&Tag.1.Value=1"
        ));
        assert!(cloud.state.revision(&cloud.host) > before);
    }

    #[test]
    fn a_call_names_some_tags_and_not_too_many() {
        let mut cloud = Cloud::new();
        let id = cloud.instance();
        let named = |count: usize| -> String {
            (1..=count).map(|n| format!("&Tag.{n}.Key=k{n}")).collect()
        };
        let delete = format!("Action=DeleteTags&ResourceId.1={id}");
        cloud.ok(&format!("{delete}{}", named(1000)));
        let refused = cloud.refusal(&format!("{delete}{}", named(1001)));
        assert_eq!(refused, "InvalidParameterValue");
        let group = "Action=CreateSecurityGroup&GroupName=g&GroupDescription=g\
                     &TagSpecification.1.ResourceType=security-group";
        assert_eq!(cloud.refusal(group), "InvalidParameterValue");
    }

    #[test]
    fn tags_are_filtered_and_paged() {
        let mut cloud = Cloud::new();
        let ids = cloud.launch(6, "&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=team&TagSpecification.1.Tag.1.Value=x");
        cloud.ok(&format!(
            "Action=CreateTags&ResourceId.1={}&Tag.1.Key=team&Tag.1.Value=y",
            ids[0]
        ));
        let one = cloud.ok("Action=DescribeTags&Filter.1.Name=tag:team&Filter.1.Value.1=y");
        assert_eq!(one.one("resourceId"), ids[0].as_str());
        let all = "Action=DescribeTags&Filter.1.Name=resource-type&Filter.1.Value.1=instance&MaxResults=5";
        let first = cloud.ok(all);
        let rest = cloud.ok(&format!("{all}&NextToken={}", first.one("nextToken")));
        assert_eq!(
            (first.all("resourceId").len(), rest.all("resourceId").len()),
            (5, 1)
        );
        assert!(!rest.has("nextToken"));
        assert_eq!(
            cloud.refusal("Action=DescribeTags&Filter.1.Name=colour&Filter.1.Value.1=y"),
            "InvalidParameterValue"
        );
        let other = cloud.other.clone();
        let reply = cloud
            .call_as(&other, "Action=DescribeTags")
            .expect("allowed");
        assert_eq!(reply.all("resourceId").len(), 0);
    }
}
