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
use boira_core::{Draft, Refusal, State};
use boira_model::{KeyKind, KeyPair, Tags};
use boira_store::Snapshot;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// RSA keys that are made at the same time; more would only slow one another down.
static MAKING: Semaphore = Semaphore::const_new(2);

static LISTING: Listing = Listing {
    ids: Some(Ids {
        member: "KeyPairIds",
        kind: &id::KEY_PAIR,
        set: None,
    }),
    filters: &["fingerprint", "key-name", "key-pair-id"],
    tagged: true,
    page: PAGE,
};

/// Before the costly part of CreateKeyPair; the writer checks again.
pub fn check(call: &Call, state: &State) -> Result<(), ApiError> {
    let ask = Ask::of(call)?;
    match state.key_pair(&call.account, &ask.name) {
        Some(_) => Err(refusals::error(Refusal::Duplicate("key pair", ask.name))),
        None => Ok(()),
    }
}

pub fn create(call: Call, controller: Arc<Controller>) -> Waiting {
    Box::pin(async move {
        let ask = Ask::of(&call)?;
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
    made.map_err(|error| error.to_string())
        .flatten()
        .map_err(ApiError::unavailable)
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
    let material = call
        .request
        .get("PublicKeyMaterial")
        .and_then(|value| value.as_blob());
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
    Ok(Answer::Done(
        DeleteKeyPairResult::new()
            .key_pair_id(id)
            .r#return(true)
            .into(),
    ))
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
    let own = state
        .key_pairs
        .values()
        .filter(|row| row.owner == call.account)
        .cloned();
    let rows = ask.select(
        own,
        |id| {
            state
                .key_pairs
                .get(id)
                .filter(|row| row.owner == call.account)
                .cloned()
        },
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
            .tags(instance_value::tags(&row.tags).unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::testing::{Cloud, Reply};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    fn import(name: &str, line: &str) -> String {
        let material = STANDARD.encode(line).replace('+', "%2B");
        format!("Action=ImportKeyPair&KeyName={name}&PublicKeyMaterial={material}")
    }

    fn ed25519() -> &'static str {
        include_str!("testdata/ed25519.pub")
    }

    /// What CreateKeyPair does after the key is made.
    fn create(cloud: &mut Cloud, query: &str) -> Result<Reply, ApiError> {
        cloud.write(&format!("Action=CreateKeyPair&{query}"), |call, draft| {
            let ask = Ask::of(call)?;
            let made = key_material::make(ask.kind, &ask.name).expect("made");
            keep(call, draft, ask, made)
        })
    }

    #[test]
    fn a_created_key_gives_its_private_half_once_and_keeps_the_public_one() {
        let mut cloud = Cloud::new();
        let created = create(&mut cloud, "KeyName=k&KeyType=ed25519").expect("created");
        assert!(
            created
                .one("keyMaterial")
                .starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n")
        );
        let plain = cloud.ok("Action=DescribeKeyPairs&KeyName.1=k");
        assert_eq!(plain.one("keyFingerprint"), created.one("keyFingerprint"));
        assert_eq!(
            (plain.one("keyType"), plain.all("publicKey").len()),
            ("ed25519", 0)
        );
        let whole = cloud.ok("Action=DescribeKeyPairs&KeyName.1=k&IncludePublicKey=true");
        assert!(whole.one("publicKey").starts_with("ssh-ed25519 AAAA"));
        assert!(
            whole.one("publicKey").ends_with(" k"),
            "the comment is the name"
        );
        assert!(!whole.has("PRIVATE"));
        let again = create(&mut cloud, "KeyName=k&KeyType=ed25519")
            .err()
            .expect("refused");
        assert_eq!(again.code, "InvalidKeyPair.Duplicate");
    }

    #[test]
    fn an_imported_key_is_found_by_name_id_and_filters() {
        let mut cloud = Cloud::new();
        let query = import("k", ed25519());
        let id = cloud.ok(&query).one("keyPairId").to_owned();
        assert_eq!(cloud.refusal(&query), "InvalidKeyPair.Duplicate");
        for by in [
            "KeyName.1=k".to_owned(),
            format!("KeyPairId.1={id}"),
            format!("Filter.1.Name=key-pair-id&Filter.1.Value.1={id}"),
            "Filter.1.Name=key-name&Filter.1.Value.1=%2A".to_owned(),
            "Filter.1.Name=fingerprint&Filter.1.Value.1=0B%2BG084B00xGlCb6t79V31gxSUHqzmtKO23dhkQfOBI=".to_owned(),
        ] {
            assert_eq!(cloud.ok(&format!("Action=DescribeKeyPairs&{by}")).one("keyName"), "k", "{by}");
        }
        for (by, code) in [
            ("KeyName.1=nobody", "InvalidKeyPair.NotFound"),
            (
                "KeyPairId.1=key-0123456789abcdef0",
                "InvalidKeyPair.NotFound",
            ),
            (
                "Filter.1.Name=colour&Filter.1.Value.1=red",
                "InvalidParameterValue",
            ),
        ] {
            assert_eq!(
                cloud.refusal(&format!("Action=DescribeKeyPairs&{by}")),
                code
            );
        }
        let other = cloud.other.clone();
        let theirs = cloud.call_as(&other, "Action=DescribeKeyPairs&KeyName.1=k");
        assert_eq!(
            theirs.err().expect("refused").code,
            "InvalidKeyPair.NotFound"
        );
        assert!(
            cloud.call_as(&other, &query).is_ok(),
            "names are an account's own"
        );
    }

    #[test]
    fn deleting_an_unknown_name_succeeds_and_an_unknown_id_does_not() {
        let mut cloud = Cloud::new();
        assert_eq!(
            cloud
                .ok("Action=DeleteKeyPair&KeyName=nobody")
                .one("return"),
            "true"
        );
        let id = cloud
            .ok(&import("a", ed25519()))
            .one("keyPairId")
            .to_owned();
        cloud.ok(&import("b", ed25519()));
        let other = cloud.other.clone();
        let query = format!("Action=DeleteKeyPair&KeyPairId={id}");
        let theirs = cloud.call_as(&other, &query).err().expect("refused");
        assert_eq!(theirs.code, "InvalidKeyPair.NotFound");
        assert_eq!(cloud.ok(&query).one("keyPairId"), id);
        assert_eq!(cloud.refusal(&query), "InvalidKeyPair.NotFound");
        cloud.ok("Action=DeleteKeyPair&KeyName=b");
        assert_eq!(cloud.ok("Action=DescribeKeyPairs").all("keyName").len(), 0);
        assert_eq!(cloud.refusal("Action=DeleteKeyPair"), "MissingParameter");
    }

    #[test]
    fn bad_names_formats_and_material_are_refused() {
        let mut cloud = Cloud::new();
        let long = "k".repeat(256);
        for name in ["", "%20k", "k%0A", "%C3%A9", &long] {
            assert_eq!(
                cloud.refusal(&import(name, ed25519())),
                "InvalidParameterValue",
                "{name}"
            );
        }
        assert_eq!(cloud.refusal(&import("k", "rubbish")), "InvalidKey.Format");
        let ppk = create(&mut cloud, "KeyName=k&KeyFormat=ppk")
            .err()
            .expect("refused");
        assert_eq!(ppk.code, "UnsupportedOperation");
        let tags = "&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=a";
        assert_eq!(
            cloud.refusal(&format!("{}{tags}", import("k", ed25519()))),
            "InvalidParameterValue"
        );
    }
}
