//! GetConsoleOutput, which asks the instance's host, and GetPasswordData.

use super::{Answer, Call, Outcome, Waiting};
use crate::controller::Controller;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boira_api::output::ec2::{GetConsoleOutputResult, GetPasswordDataResult};
use boira_api::{ApiError, id};
use boira_core::State;
use boira_core::state::Contact;
use boira_model::wire::StreamKind;
use boira_model::{HostId, Instance};
use boira_store::Snapshot;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What EC2 gives at most, the end of the log.
const OUTPUT_BYTES: u64 = 64 << 10;
/// How long a host may take to send that much, once it has opened the stream.
const DEADLINE: Duration = Duration::from_secs(10);

/// What GetConsoleOutput can say before it asks a host.
pub fn check(call: &Call, state: &State) -> Result<(), ApiError> {
    // With and without `Latest` the answer is the latest output.
    call.honours(&["InstanceId", "Latest"])?;
    named(state, call).map(drop)
}

pub fn output(call: Call, controller: Arc<Controller>) -> Waiting {
    Box::pin(async move {
        let host = host_of(&controller.cluster.snapshot().state, &call)?;
        let log = match host {
            Some(host) => read(&call, &controller, &host).await?,
            // Never placed, or on a host that is no part of the cloud any more: nothing has a log of it.
            None => Vec::new(),
        };
        Ok(output_answer(&call, &log))
    })
}

/// The host that has the instance's log.
fn host_of(state: &State, call: &Call) -> Result<Option<HostId>, ApiError> {
    let row = named(state, call)?;
    let placed = row.placement.as_ref().map(|placement| &placement.host);
    let there = |host: &&HostId| state.hosts.contains_key(*host);
    let Some(host) = placed.or(row.last_host.as_ref()).filter(there) else {
        return Ok(None);
    };
    match state.contact(host) {
        Contact::Live => Ok(Some(host.clone())),
        Contact::Silent => Err(unreadable("its host is not in contact")),
    }
}

async fn read(call: &Call, controller: &Controller, host: &HostId) -> Result<Vec<u8>, ApiError> {
    let instance = call.request.str("InstanceId").unwrap_or_default().into();
    let kind = StreamKind::ConsoleLog {
        instance,
        max_bytes: OUTPUT_BYTES,
    };
    let stream = controller
        .links
        .open(host, kind)
        .await
        .map_err(|why| unreadable(&why))?;
    read_log(stream, DEADLINE)
        .await
        .map_err(|why| unreadable(&why))
}

/// Reads a log to its end, and never more than EC2 answers.
async fn read_log(stream: impl AsyncRead + Unpin, deadline: Duration) -> Result<Vec<u8>, String> {
    let mut log = Vec::new();
    let mut limited = stream.take(OUTPUT_BYTES);
    match tokio::time::timeout(deadline, limited.read_to_end(&mut log)).await {
        Ok(Ok(_)) => Ok(log),
        Ok(Err(error)) => Err(format!("the host broke off: {error}")),
        Err(_) => Err(format!("the host took more than {} s", deadline.as_secs())),
    }
}

fn output_answer(call: &Call, log: &[u8]) -> Answer {
    let answer = GetConsoleOutputResult::new()
        .instance_id(
            call.request
                .str("InstanceId")
                .unwrap_or_default()
                .to_owned(),
        )
        .output(STANDARD.encode(log))
        .timestamp(call.now.0);
    Answer::Done(answer.into())
}

/// Guests here have no Windows password; EC2 answers an empty one for Linux.
pub fn password(call: &Call, snapshot: &Arc<Snapshot>) -> Outcome {
    call.honours(&["InstanceId"])?;
    let row = named(&snapshot.state, call)?;
    let answer = GetPasswordDataResult::new()
        .instance_id(row.id.to_string())
        .password_data("")
        .timestamp(call.now.0);
    Ok(Answer::Done(answer.into()))
}

fn named<'a>(state: &'a State, call: &Call) -> Result<&'a Arc<Instance>, ApiError> {
    let name = call.request.str("InstanceId").unwrap_or_default();
    id::INSTANCE.validate(name)?;
    state
        .instance(&call.account, name)
        .ok_or_else(|| id::INSTANCE.not_found(&[name]))
}

fn unreadable(why: &str) -> ApiError {
    ApiError::unavailable(format!("The console output can't be read now: {why}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::testing::Cloud;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn the_log_is_asked_of_the_instance_s_host() {
        let mut cloud = Cloud::new();
        let id = cloud.instance();
        let (account, other) = (cloud.account.clone(), cloud.other.clone());
        let host = |cloud: &Cloud, account, id: &str| {
            let query = format!("Action=GetConsoleOutput&Latest=true&InstanceId={id}");
            let call = cloud.prepare(account, &query).expect("valid");
            host_of(&cloud.state, &call).map_err(|error| error.code.into_owned())
        };
        assert_eq!(
            host(&cloud, &account, id.as_str()),
            Ok(Some(cloud.host.clone()))
        );
        assert_eq!(
            host(&cloud, &other, id.as_str()),
            Err("InvalidInstanceID.NotFound".into())
        );
        assert_eq!(
            host(&cloud, &account, "rubbish"),
            Err("InvalidInstanceID.Malformed".into())
        );
        cloud.state.silent.insert(cloud.host.clone());
        assert_eq!(
            host(&cloud, &account, id.as_str()),
            Err("Unavailable".into())
        );
        cloud.state.silent.clear();
        cloud.edit(|draft| boira_core::observe::release(draft, &id));
        assert_eq!(
            host(&cloud, &account, id.as_str()),
            Ok(Some(cloud.host.clone())),
            "what a terminated one said is kept where it was"
        );
        let gone = cloud.host.clone();
        cloud.edit(|draft| draft.delete(boira_core::Kind::Host, gone.as_str()));
        assert_eq!(host(&cloud, &account, id.as_str()), Ok(None));
    }

    #[tokio::test]
    async fn a_log_is_read_to_its_end_within_bounds() {
        let (mut host, stream) = tokio::io::duplex(1 << 20);
        host.write_all(b"login: \xff").await.expect("room");
        drop(host);
        assert_eq!(
            read_log(stream, DEADLINE).await,
            Ok(b"login: \xff".to_vec())
        );

        let (mut host, stream) = tokio::io::duplex(1 << 20);
        host.write_all(&[b'x'; 100_000]).await.expect("room");
        let log = read_log(stream, DEADLINE).await.expect("read");
        assert_eq!(log.len() as u64, OUTPUT_BYTES);

        let (_host, stream) = tokio::io::duplex(1 << 20);
        assert!(
            read_log(stream, Duration::from_millis(20)).await.is_err(),
            "a host that hangs"
        );
    }

    #[test]
    fn answers_are_base64_and_passwords_empty() {
        let mut cloud = Cloud::new();
        let id = cloud.instance();
        let query = format!("Action=GetConsoleOutput&InstanceId={id}");
        let reply = cloud
            .write(&query, |call, _| Ok(output_answer(call, b"hello\n")))
            .expect("read");
        assert_eq!(reply.one("output"), "aGVsbG8K");
        assert_eq!(
            reply.one("timestamp").len(),
            "2026-11-18T12:26:40.000Z".len()
        );
        let reply = cloud.ok(&format!("Action=GetPasswordData&InstanceId={id}"));
        assert_eq!(
            (reply.one("instanceId"), reply.one("passwordData")),
            (id.as_str(), "")
        );
        assert_eq!(
            cloud.refusal("Action=GetPasswordData&InstanceId=i-01234567"),
            "InvalidInstanceID.NotFound"
        );
    }
}
