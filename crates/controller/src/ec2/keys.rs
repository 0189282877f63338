//! SSH key pairs.

use super::describe::{Ids, Listing, PAGE};
use super::key_material::{self, Made};
use super::{Answer, Call, Outcome, Waiting, instance_value, refusals, tags};
use crate::controller::Controller;
use boira_api::output::ec2::{
    DeleteKeyPairResult, ImportKeyPairResult, KeyPair as KeyPairValue, KeyPairInfo,
};
use boira_api::{ApiError, id};
use boira_core::key::{self, NewKey};
use boira_core::refusal::Thing;
use boira_core::{Draft, Refusal};
use boira_model::{KeyKind, KeyPair, Tags};
use boira_store::Snapshot;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// RSA keys that are made at the same time; more would only slow one another down.
static MAKING: Semaphore = Semaphore::const_new(2);

static LISTING: Listing = Listing {
    ids: Some(Ids { member: "KeyPairIds", kind: &id::KEY_PAIR, set: None }),
    filters: &["fingerprint", "key-name", "key-pair-id"],
    tagged: true,
    page: PAGE,
};

pub fn create(call: Call, controller: Arc<Controller>) -> Waiting {
    Box::pin(async move {
        let ask = Ask::of(&call)?;
        // Before the costly part; the writer checks again.
        if controller.cluster.snapshot().state.key_pair(&call.account, &ask.name).is_some() {
            return Err(refusals::error(Refusal::Duplicate("key pair", ask.name)));
        }
        let made = make(ask.kind, &ask.name).await?;
        controller
            .cluster
            .decide(move |draft| keep(&call, draft, ask, made))
            .await
            .map_err(|error| ApiError::unavailable(error.to_string()))?
    })
}

async fn make(kind: KeyKind, name: &str) -> Result<Made, ApiError> {
    let _turn = MAKING.acquire().await.expect("nobody closes it");
    let comment = name.to_owned();
    let made = tokio::task::spawn_blocking(move || key_material::make(kind, &comment)).await;
    made.map_err(|error| error.to_string()).flatten().map_err(ApiError::unavailable)
}

/// What CreateKeyPair asks for.
#[derive(Debug)]
pub(super) struct Ask {
    name: String,
    kind: KeyKind,
    tags: Tags,
}

impl Ask {
    pub(super) fn of(call: &Call) -> Result<Self, ApiError> {
        call.honours(&["KeyName", "KeyType", "KeyFormat", "TagSpecifications"])?;
        if call.request.str("KeyFormat") == Some("ppk") {
            return Err(ApiError::new(
                "UnsupportedOperation",
                "Boira writes private keys as PEM; PuTTY's tools convert them.",
            ));
        }
        Ok(Self {
            name: name(call)?,
            kind: match call.request.str("KeyType") {
                Some("ed25519") => KeyKind::Ed25519,
                _ => KeyKind::Rsa,
            },
            tags: tags::of_specifications(&call.request, "key-pair")?,
        })
    }
}

/// Keeps the public half of a made pair and answers with the private one.
pub(super) fn keep(call: &Call, draft: &mut Draft, ask: Ask, made: Made) -> Outcome {
    let new = NewKey {
        public_key: made.public.line(&ask.name),
        fingerprint: made.public.fingerprint,
        name: ask.name,
        kind: ask.kind,
        tags: ask.tags,
    };
    let row = key::add(draft, &call.account, new).map_err(refusals::error)?;
    let answer = KeyPairValue::new()
        .key_fingerprint(row.fingerprint)
        .key_material(made.private_pem)
        .key_name(row.name)
        .key_pair_id(row.id.to_string())
        .tags(instance_value::tags(&row.tags));
    Ok(Answer::Done(answer.into()))
}

pub fn import(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["KeyName", "PublicKeyMaterial", "TagSpecifications"])?;
    let name = name(call)?;
    let material = call.request.get("PublicKeyMaterial").and_then(|value| value.as_blob());
    let public = key_material::read(material.unwrap_or_default())?;
    let new = NewKey {
        public_key: public.line(&name),
        name,
        kind: public.kind,
        fingerprint: public.fingerprint,
        tags: tags::of_specifications(&call.request, "key-pair")?,
    };
    let row = key::add(draft, &call.account, new).map_err(refusals::error)?;
    let answer = ImportKeyPairResult::new()
        .key_fingerprint(row.fingerprint)
        .key_name(row.name)
        .key_pair_id(row.id.to_string())
        .tags(instance_value::tags(&row.tags));
    Ok(Answer::Done(answer.into()))
}

/// One that doesn't exist by that name counts as deleted, as in AWS.
pub fn delete(call: &Call, draft: &mut Draft) -> Outcome {
    call.honours(&["KeyName", "KeyPairId"])?;
    let gone = match (call.request.str("KeyName"), call.request.str("KeyPairId")) {
        (Some(name), None) => key::delete_named(draft, &call.account, name),
        (None, Some(id)) => {
            id::KEY_PAIR.validate(id)?;
            Some(key::delete(draft, &call.account, id).map_err(refusals::error)?)
        }
        (None, None) => return Err(ApiError::missing_parameter("KeyName or KeyPairId")),
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid_combination(
                "The parameter KeyName cannot be used with the parameter KeyPairId",
            ));
        }
    };
    let id = gone.map(|id| id.to_string());
    Ok(Answer::Done(DeleteKeyPairResult::new().key_pair_id(id).r#return(true).into()))
}

pub fn describe(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    let state = &snapshot.state;
    let ask = LISTING.ask_with(call, state, &["KeyNames", "IncludePublicKey"])?;
    let names = call.strings("KeyNames");
    let missing: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| state.key_pair(&call.account, name).is_none())
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(refusals::error(Refusal::NotFound(Thing::KeyPair, missing)));
    }
    let named = |row: &KeyPair| names.is_empty() || names.contains(&row.name);
    let own = state.key_pairs.values().filter(|row| row.owner == call.account).cloned();
    let rows = ask.select(
        own,
        |id| state.key_pairs.get(id).filter(|row| row.owner == call.account).cloned(),
        |row| row.id.as_str(),
        |row| {
            named(row)
                && ask.filters.matches(&row.tags, |name, test| match name {
                    "fingerprint" => test(&row.fingerprint),
                    "key-name" => test(&row.name),
                    "key-pair-id" => test(row.id.as_str()),
                    _ => false,
                })
        },
    )?;
    let with_key = call.request.bool("IncludePublicKey") == Some(true);
    ask.list("KeyPairs", rows, move |_, row| {
        KeyPairInfo::new()
            .create_time(row.created.0)
            .key_fingerprint(row.fingerprint.clone())
            .key_name(row.name.clone())
            .key_pair_id(row.id.to_string())
            .key_type(match row.kind {
                KeyKind::Rsa => "rsa",
                KeyKind::Ed25519 => "ed25519",
            })
            .public_key(with_key.then(|| row.public_key.clone()))
            .tags(instance_value::tags(&row.tags))
            .into()
    })
}

fn name(call: &Call) -> Result<String, ApiError> {
    let name = call.request.str("KeyName").unwrap_or_default();
    let printable = name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if name.is_empty() || name.len() > 255 || !printable || name.trim() != name {
        return Err(ApiError::invalid_value(
            "KeyName",
            name,
            "It may have up to 255 printable ASCII characters and no spaces at its ends.",
        ));
    }
    Ok(name.to_owned())
}
