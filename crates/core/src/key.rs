//! SSH key pairs: names are an account's own, and only the public half is ever seen here.

use crate::refusal::Thing;
use crate::{Draft, Kind, Refusal};
use boira_model::*;

/// A key pair as the edge made or read it.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub name: String,
    pub kind: KeyKind,
    pub fingerprint: String,
    /// One line in OpenSSH's format.
    pub public_key: String,
    pub tags: Tags,
}

/// Key pairs that an account may have, as in AWS.
pub const MAX_KEYS: usize = 5000;

pub fn add(draft: &mut Draft, owner: &AccountId, key: NewKey) -> Result<KeyPair, Refusal> {
    if draft.state.key_pair(owner, &key.name).is_some() {
        return Err(Refusal::Duplicate("key pair", key.name));
    }
    let first = (owner.clone(), String::new());
    let owned = draft
        .state
        .key_names
        .range(first..)
        .take_while(|((of, _), _)| of == owner);
    if owned.count() >= MAX_KEYS {
        return Err(Refusal::Limit(format!("{MAX_KEYS} key pairs")));
    }
    let row = KeyPair {
        id: KeyPairId::from_entropy(draft.ctx.entropy()),
        number: draft.number(|c| &mut c.key_pair),
        owner: owner.clone(),
        name: key.name,
        kind: key.kind,
        fingerprint: key.fingerprint,
        public_key: key.public_key,
        created: draft.now(),
        tags: key.tags,
    };
    draft.put(row.clone());
    Ok(row)
}

/// Deletes a key pair by its name; one that doesn't exist is no error. Instances that were launched
/// with it keep the name.
pub fn delete_named(draft: &mut Draft, owner: &AccountId, name: &str) -> Option<KeyPairId> {
    let id = draft.state.key_pair(owner, name)?.id.clone();
    draft.delete(Kind::KeyPair, id.as_str());
    Some(id)
}

pub fn delete(draft: &mut Draft, owner: &AccountId, id: &str) -> Result<KeyPairId, Refusal> {
    let row = draft
        .state
        .key_pairs
        .get(id)
        .filter(|row| row.owner == *owner);
    let id = row
        .map(|row| row.id.clone())
        .ok_or(Refusal::NotFound(Thing::KeyPair, id.into()))?;
    draft.delete(Kind::KeyPair, id.as_str());
    Ok(id)
}
