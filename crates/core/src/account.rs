//! Accounts: each comes with a default VPC, a subnet per zone and a default group, as in AWS.

use crate::refusal::Thing;
use crate::{Draft, Kind, Refusal, network};
use boira_model::*;

/// Secrets that the edge made from the system's randomness.
pub struct Credentials {
    pub access_key: String,
    pub secret: String,
}

/// Creates the account with its default network and first key.
pub fn create(
    draft: &mut Draft,
    name: &str,
    admin: bool,
    credentials: Credentials,
) -> Result<Account, Refusal> {
    if draft.state.accounts.values().any(|row| row.name == name) {
        return Err(Refusal::Duplicate("account", name.into()));
    }
    let id = loop {
        let id = AccountId::from_entropy(draft.ctx.entropy());
        if !draft.state.accounts.contains_key(&id) {
            break id;
        }
    };
    let vpc = network::create_default_vpc(draft, &id);
    let account = Account {
        id: id.clone(),
        number: draft.number(|c| &mut c.account),
        name: name.into(),
        admin,
        default_vpc: vpc,
        created: draft.now(),
    };
    draft.put(account.clone());
    put_key(draft, &id, credentials);
    Ok(account)
}

/// Replaces every key of the account by a new one.
pub fn rotate_keys(
    draft: &mut Draft,
    name: &str,
    credentials: Credentials,
) -> Result<AccountId, Refusal> {
    let id = find(draft, name)?.id.clone();
    drop_keys(draft, &id);
    put_key(draft, &id, credentials);
    Ok(id)
}

/// Removes an account that has no instances and no volumes left.
pub fn remove(draft: &mut Draft, name: &str) -> Result<AccountId, Refusal> {
    let account = find(draft, name)?;
    if account.admin {
        return Err(Refusal::Conflict(format!(
            "{name} is the administrator's account and can't be removed"
        )));
    }
    let id = account.id.clone();
    let alive = draft
        .state
        .instances_of(&id)
        .filter(|row| row.state() != StateName::Terminated)
        .map(|row| row.id.to_string())
        .chain(
            draft
                .state
                .volumes
                .values()
                .filter(|row| row.owner == id)
                .map(|r| r.id.to_string()),
        )
        .next();
    if let Some(user) = alive {
        return Err(Refusal::InUse(format!("account {name}"), user));
    }
    drop_keys(draft, &id);
    let state = draft.state.clone();
    let owned = state
        .instances_of(&id)
        .map(|row| (Kind::Instance, row.id.to_string()))
        .chain(keys(
            state.key_pairs.values(),
            Kind::KeyPair,
            |r| (&r.owner, r.id.as_str()),
            &id,
        ))
        .chain(keys(
            state.groups.values(),
            Kind::Group,
            |r| (&r.owner, r.id.as_str()),
            &id,
        ))
        .chain(keys(
            state.interfaces.values(),
            Kind::Interface,
            |r| (&r.owner, r.id.as_str()),
            &id,
        ))
        .chain(
            state
                .tokens
                .iter()
                .filter(|(_, row)| row.owner == id)
                .map(|(key, _)| (Kind::ClientToken, key.clone())),
        )
        .chain(keys(
            state.subnets.values(),
            Kind::Subnet,
            |r| (&r.owner, r.id.as_str()),
            &id,
        ))
        .chain(keys(
            state.images.values(),
            Kind::Image,
            |r| (&r.owner, r.id.as_str()),
            &id,
        ))
        .chain(keys(
            state.vpcs.values(),
            Kind::Vpc,
            |r| (&r.owner, r.id.as_str()),
            &id,
        ))
        .collect::<Vec<_>>();
    for (kind, key) in owned {
        draft.delete(kind, &key);
    }
    draft.delete(Kind::Account, id.as_str());
    Ok(id)
}

fn keys<'a, T: 'a>(
    rows: impl Iterator<Item = &'a std::sync::Arc<T>>,
    kind: Kind,
    facts: fn(&T) -> (&AccountId, &str),
    owner: &AccountId,
) -> Vec<(Kind, String)> {
    rows.filter(|row| facts(row).0 == owner)
        .map(|row| (kind, facts(row).1.to_owned()))
        .collect()
}

/// By name, by id or by the small number; a name is no number.
pub fn find<'a>(draft: &'a Draft, name: &str) -> Result<&'a Account, Refusal> {
    draft
        .state
        .accounts
        .values()
        .find(|row| row.name == name || row.id.as_str() == name || row.number.to_string() == name)
        .map(|row| &**row)
        .ok_or_else(|| Refusal::NotFound(Thing::Account, name.into()))
}

fn put_key(draft: &mut Draft, owner: &AccountId, credentials: Credentials) {
    let created = draft.now();
    draft.put(AccessKey {
        id: credentials.access_key,
        owner: owner.clone(),
        secret: credentials.secret,
        created,
    });
}

fn drop_keys(draft: &mut Draft, owner: &AccountId) {
    let old: Vec<_> = draft
        .state
        .access_keys
        .values()
        .filter(|row| row.owner == *owner)
        .map(|row| row.id.clone())
        .collect();
    for key in old {
        draft.delete(Kind::AccessKey, &key);
    }
}
