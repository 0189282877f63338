//! Security groups and their rules.

use super::describe::{Ids, Listing, PAGE};
use super::permissions::{self, Scope};
use super::{Answer, Call, Outcome, instance_value, refusals, strings, tags};
use boira_api::output::ec2::{
    AuthorizeSecurityGroupIngressResult, CreateSecurityGroupResult, DeleteSecurityGroupResult,
    RevokeSecurityGroupIngressResult, SecurityGroup as GroupValue,
};
use boira_api::value::{Struct, Value};
use boira_api::{ApiError, id, shown};
use boira_core::group::{self, Named};
use boira_core::{Draft, State};
use boira_model::*;
use boira_store::Snapshot;
use std::collections::BTreeSet;
use std::sync::Arc;

static GROUPS: Listing = Listing {
    ids: Some(Ids {
        member: "GroupIds",
        kind: &id::SECURITY_GROUP,
        set: Some("groupIds"),
    }),
    filters: &[
        "description",
        "egress.ip-permission.cidr",
        "egress.ip-permission.from-port",
        "egress.ip-permission.group-id",
        "egress.ip-permission.group-name",
        "egress.ip-permission.ipv6-cidr",
        "egress.ip-permission.prefix-list-id",
        "egress.ip-permission.protocol",
        "egress.ip-permission.to-port",
        "egress.ip-permission.user-id",
        "group-id",
        "group-name",
        "ip-permission.cidr",
        "ip-permission.from-port",
        "ip-permission.group-id",
        "ip-permission.group-name",
        "ip-permission.ipv6-cidr",
        "ip-permission.prefix-list-id",
        "ip-permission.protocol",
        "ip-permission.to-port",
        "ip-permission.user-id",
        "owner-id",
        "vpc-id",
    ],
    tagged: true,
    page: PAGE,
};

static RULES: Listing = Listing {
    ids: Some(Ids {
        member: "SecurityGroupRuleIds",
        kind: &id::SECURITY_GROUP_RULE,
        set: Some("securityGroupRuleIds"),
    }),
    filters: &["group-id", "security-group-rule-id"],
    tagged: true,
    page: PAGE,
};

pub fn create(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["Description", "GroupName", "VpcId", "TagSpecifications"])?;
    // EC2 stores names without the spaces at their ends.
    let name = call.request.str("GroupName").unwrap_or_default().trim_end();
    let text = call.request.str("Description").unwrap_or_default();
    check_name(name)?;
    permissions::check_description(text)?;
    if text.is_empty() {
        return Err(ApiError::missing_parameter("GroupDescription"));
    }
    // Packer sends an empty one where its template names none.
    let vpc = match call.request.str("VpcId").filter(|vpc| !vpc.is_empty()) {
        Some(vpc) => {
            id::VPC.validate(vpc)?;
            draft
                .state
                .vpc(&call.account, vpc)
                .ok_or_else(|| id::VPC.not_found(&[vpc]))?
        }
        None => default_vpc(&draft.state, &call.account)?,
    };
    let (vpc, tags) = (
        vpc.id.clone(),
        tags::of_specifications(&call.request, "security-group")?,
    );
    let row = group::create(draft, &call.account, &vpc, name.into(), text.into(), tags)
        .map_err(refusals::error)?;
    let answer = CreateSecurityGroupResult::new()
        .group_id(row.id.to_string())
        .security_group_arn(arn(&draft.state, &row))
        .tags(instance_value::tags(&row.tags));
    Ok(Answer::Done(answer.into()))
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let fits = !name.is_empty() && permissions::check_description(name).is_ok();
    if name.eq_ignore_ascii_case("default") {
        return Err(ApiError::invalid_parameter_value(
            "Cannot use reserved security group name: default",
        ));
    }
    if !fits || name.trim_start() != name || name.starts_with("sg-") {
        return Err(ApiError::invalid_value(
            "GroupName",
            name,
            "Names have up to 255 characters from a-zA-Z0-9. _-:/()#,@[]+=&;{}!$* and do not start with sg-.",
        ));
    }
    Ok(())
}

pub fn delete(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["GroupId", "GroupName"])?;
    let id = named_group(call, &draft.state)?;
    let gone = group::delete(draft, &call.account, &id).map_err(refusals::error)?;
    let answer = DeleteSecurityGroupResult::new()
        .group_id(gone.to_string())
        .r#return(true);
    Ok(Answer::Done(answer.into()))
}

pub fn authorize_ingress(call: &Call, draft: &mut Draft) -> Outcome {
    authorize(call, draft, Direction::Ingress)
}

pub fn authorize_egress(call: &Call, draft: &mut Draft) -> Outcome {
    authorize(call, draft, Direction::Egress)
}

fn authorize(call: &Call, draft: &mut Draft, direction: Direction) -> Outcome {
    let (group, rules) = group_and_rules(call, &draft.state, true)?;
    if rules.is_empty() {
        return Err(ApiError::missing_parameter("ipPermissions"));
    }
    let mut seen = Vec::new();
    for rule in &rules {
        if seen.contains(&&rule.traffic) {
            return Err(ApiError::invalid_parameter_value(
                "The same permission must not appear multiple times",
            ));
        }
        seen.push(&rule.traffic);
    }
    let tags = tags::of_specifications(&call.request, "security-group-rule")?;
    let added = group::authorize(
        draft,
        &call.account,
        group.as_str(),
        direction,
        rules,
        &tags,
    )
    .map_err(refusals::error)?;
    let row = &draft.state.groups[&group];
    let items = added
        .iter()
        .map(|rule| permissions::rule_value(&draft.state, row, rule));
    let answer = AuthorizeSecurityGroupIngressResult::new()
        .r#return(true)
        .security_group_rules(items.collect::<Vec<_>>());
    Ok(Answer::Done(reshape(call, answer.into())))
}

pub fn revoke_ingress(call: &Call, draft: &mut Draft) -> Outcome {
    revoke(call, draft, Direction::Ingress)
}

pub fn revoke_egress(call: &Call, draft: &mut Draft) -> Outcome {
    revoke(call, draft, Direction::Egress)
}

fn revoke(call: &Call, draft: &mut Draft, direction: Direction) -> Outcome {
    let (group, rules) = group_and_rules(call, &draft.state, false)?;
    let ids = strings(&call.request, "SecurityGroupRuleIds");
    let named: Vec<Named> = match (rules.is_empty(), ids.is_empty()) {
        (false, true) => rules
            .into_iter()
            .map(|rule| Named::Traffic(rule.traffic))
            .collect(),
        (true, false) => {
            ids.iter()
                .try_for_each(|id| id::SECURITY_GROUP_RULE.validate(id).map(drop))?;
            ids.into_iter().map(Named::Id).collect()
        }
        (true, true) => return Err(ApiError::missing_parameter("ipPermissions")),
        (false, false) => {
            return Err(ApiError::invalid_combination(
                "The parameter securityGroupRuleIds cannot be used with the parameter ipPermissions",
            ));
        }
    };
    let revoked = group::revoke(draft, &call.account, group.as_str(), direction, &named)
        .map_err(refusals::error)?;
    let items = revoked.rules.iter();
    let items = items.map(|rule| permissions::revoked_value(group.as_str(), rule));
    let mut answer = RevokeSecurityGroupIngressResult::new()
        .r#return(true)
        .revoked_security_group_rules(items.collect::<Vec<_>>());
    if !revoked.unknown.is_empty() {
        let unknown = permissions::unknown(&draft.state.groups[&group], &revoked.unknown);
        answer = answer.unknown_ip_permissions(unknown);
    }
    Ok(Answer::Done(reshape(call, answer.into())))
}

pub fn modify_rules(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["GroupId", "SecurityGroupRules"])?;
    let group = named_group(call, &draft.state)?;
    let mut updates = Vec::new();
    for one in call
        .request
        .list("SecurityGroupRules")
        .iter()
        .filter_map(Value::as_struct)
    {
        let rule = one.str("SecurityGroupRuleId").unwrap_or_default();
        id::SECURITY_GROUP_RULE.validate(rule)?;
        let new = one
            .structure("SecurityGroupRule")
            .ok_or_else(|| ApiError::missing_parameter("SecurityGroupRule.1.SecurityGroupRule"))?;
        if updates.iter().any(|(known, _)| known == rule) {
            return Err(ApiError::invalid_parameter_value(format!(
                "The security group rule '{rule}' is specified more than once."
            )));
        }
        updates.push((rule.to_owned(), permissions::rule(new)?));
    }
    if updates.is_empty() {
        return Err(ApiError::missing_parameter("SecurityGroupRule"));
    }
    group::modify(draft, &call.account, &group, updates).map_err(refusals::error)?;
    call.done()
}

pub fn describe_ingress_rules(call: &Call, draft: &mut Draft) -> Outcome {
    update_descriptions(call, draft, Direction::Ingress)
}

pub fn describe_egress_rules(call: &Call, draft: &mut Draft) -> Outcome {
    update_descriptions(call, draft, Direction::Egress)
}

fn update_descriptions(call: &Call, draft: &mut Draft, direction: Direction) -> Outcome {
    let (group, rules) = group_and_rules(call, &draft.state, false)?;
    let mut texts: Vec<(Named, Option<String>)> = rules
        .into_iter()
        .map(|rule| (Named::Traffic(rule.traffic), rule.description))
        .collect();
    let by_id = call.request.list("SecurityGroupRuleDescriptions");
    if texts.is_empty() == by_id.is_empty() {
        return Err(ApiError::invalid_combination(
            "Specify either ipPermissions or securityGroupRuleDescriptions",
        ));
    }
    for one in by_id.iter().filter_map(Value::as_struct) {
        let rule = one.str("SecurityGroupRuleId").unwrap_or_default();
        id::SECURITY_GROUP_RULE.validate(rule)?;
        let text = permissions::description(one.str("Description"))?;
        texts.push((Named::Id(rule.to_owned()), text));
    }
    group::describe(draft, &call.account, group.as_str(), direction, texts)
        .map_err(refusals::error)?;
    call.done()
}

/// The answers for ingress and egress have the same members in shapes of two names.
fn reshape(call: &Call, answer: Struct) -> Struct {
    answer.iter().fold(call.answer(), |other, (member, value)| {
        other.with(member.name, value.clone())
    })
}

/// The group that a call changes, and the rules that it gives in either form.
fn group_and_rules(
    call: &Call,
    state: &State,
    adding: bool,
) -> Result<(GroupId, Vec<group::NewRule>), ApiError> {
    let id = named_group(call, state)?;
    let row = state
        .group(&call.account, &id)
        .ok_or_else(|| id::SECURITY_GROUP.not_found(&[&id]))?;
    let scope = Scope {
        state,
        account: &call.account,
        vpc: &row.vpc,
        adding,
    };
    Ok((row.id.clone(), permissions::rules(call, &scope)?))
}

/// `GroupId`, or `GroupName` in the default VPC.
fn named_group(call: &Call, state: &State) -> Result<String, ApiError> {
    match (call.request.str("GroupId"), call.request.str("GroupName")) {
        (Some(id), None) => Ok(id::SECURITY_GROUP.validate(id)?.to_owned()),
        (None, Some(name)) => Ok(in_default_vpc(call, state, name)?.to_string()),
        (None, None) => Err(ApiError::missing_parameter("GroupName or GroupId")),
        (Some(_), Some(_)) => Err(ApiError::invalid_combination(
            "The parameter GroupName cannot be used with the parameter GroupId",
        )),
    }
}

fn in_default_vpc(call: &Call, state: &State, name: &str) -> Result<GroupId, ApiError> {
    let vpc = &default_vpc(state, &call.account)?.id;
    Scope {
        state,
        account: &call.account,
        vpc,
        adding: false,
    }
    .named(name)
}

fn default_vpc<'a>(state: &'a State, account: &AccountId) -> Result<&'a Arc<Vpc>, ApiError> {
    state.default_vpc(account).ok_or_else(|| {
        ApiError::new(
            "VPCIdNotSpecified",
            "No default VPC for this user; name one with VpcId.",
        )
    })
}

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = GROUPS.ask_with(call, state, &["GroupNames"])?;
    let named = call
        .strings("GroupNames")
        .iter()
        .map(|name| in_default_vpc(call, state, name))
        .collect::<Result<BTreeSet<_>, _>>()?;
    let rows = ask.select(
        state
            .groups
            .values()
            .filter(|row| row.owner == call.account)
            .cloned(),
        |id| state.group(&call.account, id).cloned(),
        |row| row.id.as_str(),
        |row| {
            (named.is_empty() || named.contains(&row.id))
                && ask
                    .filters
                    .matches(&row.tags, |name, test| field(state, row, name, test))
        },
    )?;
    let snapshot = snapshot.clone();
    ask.list("SecurityGroups", rows, move |_, row| {
        GroupValue::new()
            .description(row.description.clone())
            .group_id(row.id.to_string())
            .group_name(row.name.clone())
            .ip_permissions(permissions::permissions(&row, Direction::Ingress))
            .ip_permissions_egress(permissions::permissions(&row, Direction::Egress))
            .owner_id(row.owner.as_str().to_owned())
            .security_group_arn(arn(&snapshot.state, &row))
            .tags(instance_value::tags(&row.tags))
            .vpc_id(row.vpc.to_string())
            .into()
    })
}

fn arn(state: &State, row: &SecurityGroup) -> String {
    format!(
        "arn:aws:ec2:{}:{}:security-group/{}",
        state.settings.region, row.owner, row.id
    )
}

fn field(state: &State, row: &SecurityGroup, name: &str, test: &dyn Fn(&str) -> bool) -> bool {
    let (direction, rest) = match name.strip_prefix("egress.") {
        Some(rest) => (Direction::Egress, rest),
        None => (Direction::Ingress, name),
    };
    if let Some(part) = rest.strip_prefix("ip-permission.") {
        return row
            .rules
            .iter()
            .filter(|rule| rule.direction == direction)
            .any(|rule| rule_field(state, row, rule, part, test));
    }
    match name {
        "description" => test(&row.description),
        "group-id" => test(row.id.as_str()),
        "group-name" => test(&row.name),
        "owner-id" => test(row.owner.as_str()),
        "vpc-id" => test(row.vpc.as_str()),
        _ => false,
    }
}

fn rule_field(
    state: &State,
    row: &SecurityGroup,
    rule: &Rule,
    part: &str,
    test: &dyn Fn(&str) -> bool,
) -> bool {
    let (protocol, from, to) = permissions::wire(&rule.protocol);
    match (part, &rule.peer) {
        ("protocol", _) => test(&protocol),
        ("from-port", _) => test(&from.to_string()),
        ("to-port", _) => test(&to.to_string()),
        ("cidr", Peer::Cidr(cidr)) => test(&cidr.to_string()),
        ("group-id", Peer::Group(id)) => test(id.as_str()),
        ("group-name", Peer::Group(id)) => state.groups.get(id).is_some_and(|row| test(&row.name)),
        ("user-id", Peer::Group(_)) => test(row.owner.as_str()),
        _ => false,
    }
}

pub fn describe_rules(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = RULES.ask(call, state)?;
    for group in ask.filters.exact("group-id") {
        if let Err(error) = id::SECURITY_GROUP.validate(group) {
            let group = shown(group);
            let message = format!("The security group ID '{group}' is malformed");
            return Err(ApiError::new(error.code, message));
        }
    }
    let own = state
        .groups
        .values()
        .filter(|row| row.owner == call.account);
    let mut rules: Vec<(Arc<SecurityGroup>, Rule)> = own
        .flat_map(|row| row.rules.iter().map(|rule| (row.clone(), rule.clone())))
        .collect();
    rules.sort_unstable_by(|(_, a), (_, b)| a.id.cmp(&b.id));
    let rows = ask.select_from(
        rules,
        |(_, rule)| rule.id.as_str(),
        |(row, rule)| {
            ask.filters.matches(&rule.tags, |name, test| match name {
                "group-id" => test(row.id.as_str()),
                "security-group-rule-id" => test(rule.id.as_str()),
                _ => false,
            })
        },
    )?;
    let snapshot = snapshot.clone();
    ask.list("SecurityGroupRules", rows, move |_, (row, rule)| {
        permissions::rule_value(&snapshot.state, &row, &rule).into()
    })
}

#[cfg(test)]
mod tests;
