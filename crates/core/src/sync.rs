//! The rules of `POST /v1/sync`: which message counts, which part travels, which answer is obeyed.
//!
//! ```text
//!  agent                                          controller
//!  Outbox    report (session, seq) ─────────────► Inbox: fresh, or late and refused
//!            poll   (have: generation:hash) ────► tell(): the parts whose hash differs
//!  Accepted  ◄──────────────── parts, one generation
//!            refuses other clouds and older generations; what it took is written down
//! ```
//! Nothing here waits or sends; agent, controller and simulator share it.

mod agent;
mod controller;

use boira_model::wire::SyncAnswer;
use sha2::{Digest, Sha256};

pub use agent::{Accepted, Done, Outbox};
pub use controller::{Admit, Inbox, Told, parts, tell};

/// Of each part that a host has accepted, `generation:hash`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Have {
    pub parts: [String; 4],
    /// Absent of an agent that is told its neighbours within the networks.
    pub neighbours: Option<String>,
}

/// Whether an answer tells the host nothing, so that it can wait for something to tell.
pub fn is_empty(answer: &SyncAnswer) -> bool {
    answer.instances.is_none()
        && answer.network.is_none()
        && answer.neighbours.is_none()
        && answer.images.is_none()
        && answer.volumes.is_none()
        && answer.streams.is_empty()
}

/// The first 8 bytes of the SHA-256, in hex.
pub fn digest(json: &[u8]) -> String {
    let mut text = String::with_capacity(16);
    for byte in &Sha256::digest(json)[..8] {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wanted::Wanted;
    use boira_model::wire::*;
    use boira_model::{CloudId, HostId};

    fn report(name: &str) -> Report {
        Report {
            name: name.into(),
            ..Report::default()
        }
    }

    fn outbox(session: u32) -> Outbox {
        Outbox::new(HostId::from_entropy(1), session)
    }

    fn blobs(names: &[&str]) -> Wanted {
        Wanted {
            images: names
                .iter()
                .map(|name| WantedBlob {
                    sha256: (*name).into(),
                })
                .collect(),
            ..Wanted::default()
        }
    }

    fn answer(accepted: &Accepted, wanted: Wanted, generation: u64) -> SyncAnswer {
        SyncAnswer {
            cloud: Some(CloudId::from("cloud-1")),
            ..parts(wanted, generation, &accepted.have())
        }
    }

    #[test]
    fn a_late_or_repeated_report_is_stale() {
        let (mut inbox, mut agent) = (Inbox::default(), outbox(7));
        let first = agent.report(&report("a")).expect("a first report is due");
        let second = agent.report(&report("b")).expect("a changed report is due");
        assert_eq!(inbox.admit(&second), Admit::Fresh);
        assert_eq!(inbox.admit(&first), Admit::Stale);
        assert_eq!(inbox.admit(&second), Admit::Stale);
    }

    #[test]
    fn a_report_of_a_session_that_was_replaced_is_stale() {
        let (mut inbox, mut old, mut new) = (Inbox::default(), outbox(7), outbox(8));
        let before = old.report(&report("a")).expect("due");
        let late = old.report(&report("b")).expect("due");
        assert_eq!(inbox.admit(&before), Admit::Fresh);
        assert_eq!(
            inbox.admit(&new.report(&report("c")).expect("due")),
            Admit::Fresh
        );
        assert_eq!(inbox.admit(&late), Admit::Stale);
    }

    #[test]
    fn a_poll_before_any_report_is_unknown() {
        let (mut inbox, mut agent) = (Inbox::default(), outbox(7));
        let late = agent.report(&report("late")).expect("due");
        assert_eq!(inbox.admit(&agent.request(None, None)), Admit::Unknown);
        agent.renew(9);
        assert_eq!(
            inbox.admit(&late),
            Admit::Stale,
            "it was told to begin anew"
        );
        inbox.admit(&agent.report(&report("a")).expect("due"));
        assert_eq!(inbox.admit(&agent.request(None, None)), Admit::Fresh);
        // Another process of the agent was taken since.
        inbox.admit(&outbox(8).report(&report("a")).expect("due"));
        assert_eq!(inbox.admit(&agent.request(None, None)), Admit::Unknown);
    }

    #[test]
    fn nothing_is_polled_before_a_report_of_the_session_was_taken() {
        let mut agent = outbox(7);
        assert_eq!(agent.poll(&Default::default()), None);
        let first = agent.report(&report("a")).expect("due");
        assert_eq!(
            agent.poll(&Default::default()),
            None,
            "it may be on its way for long"
        );
        agent.answered(7, first.seq);
        assert!(agent.poll(&Default::default()).is_some());
        agent.renew(8);
        assert_eq!(agent.poll(&Default::default()), None);
    }

    #[test]
    fn only_parts_that_differ_travel() {
        let mut accepted = Accepted::default();
        let first = answer(&accepted, blobs(&["x"]), 3);
        assert!(first.instances.is_some() && first.images.is_some());
        assert!(accepted.accept(first));
        assert!(is_empty(&answer(&accepted, blobs(&["x"]), 9)));
        let next = answer(&accepted, blobs(&["y"]), 10);
        assert!(next.instances.is_none() && next.volumes.is_none());
        assert_eq!(next.images.as_ref().map(|part| part.generation), Some(10));
        assert!(accepted.accept(next));
        assert_eq!(accepted.wanted(), Some(blobs(&["y"])));
    }

    #[test]
    fn an_older_generation_is_refused_whole() {
        let mut accepted = Accepted::default();
        let late = answer(&accepted, blobs(&["old"]), 3);
        assert_eq!(accepted.is_ahead_of(&late), None);
        assert!(accepted.accept(answer(&accepted, blobs(&["new"]), 4)));
        let why = accepted.is_ahead_of(&late).expect("it is older");
        assert!(why.contains("(3)") && why.contains("(4)"), "{why}");
        assert_eq!(accepted.is_ahead_of(&SyncAnswer::default()), None);
        assert!(!accepted.accept(late));
        assert_eq!(accepted.wanted(), Some(blobs(&["new"])));
    }

    #[test]
    fn another_cloud_is_refused() {
        let mut accepted = Accepted::default();
        accepted.accept(answer(&accepted, blobs(&["ours"]), 3));
        let mut other = answer(&accepted, blobs(&["theirs"]), 4);
        other.cloud = Some(CloudId::from("cloud-2"));
        assert!(!accepted.accept(other.clone()));
        other.cloud = None;
        assert!(!accepted.accept(other));
        assert_eq!(accepted.wanted(), Some(blobs(&["ours"])));
    }

    #[test]
    fn nothing_is_wanted_before_every_part_has_arrived() {
        let mut accepted = Accepted::default();
        assert_eq!(accepted.wanted(), None);
        let mut partial = answer(&accepted, Wanted::default(), 1);
        partial.volumes = None;
        accepted.accept(partial);
        assert_eq!(accepted.wanted(), None);
        accepted.accept(answer(&accepted, Wanted::default(), 1));
        assert_eq!(accepted.wanted(), Some(Wanted::default()));
    }

    #[test]
    fn what_was_accepted_survives_being_written_down() {
        let mut accepted = Accepted::default();
        accepted.accept(answer(&accepted, blobs(&["x"]), 3));
        let text = serde_json::to_string(&accepted).expect("serialises");
        let read: Accepted = serde_json::from_str(&text).expect("reads back");
        assert_eq!(read, accepted);
    }

    #[test]
    fn a_report_is_due_until_the_last_one_sent_was_answered() {
        let mut agent = outbox(7);
        let first = agent.report(&report("a")).expect("due");
        assert!(agent.answered(7, first.seq));
        assert_eq!(agent.report(&report("a")), None);
        let second = agent.report(&report("b")).expect("a change is due");
        // Back to what was answered, but the other report may still be taken.
        let third = agent.report(&report("a")).expect("still due");
        assert!(!agent.answered(7, second.seq));
        assert!(agent.answered(7, third.seq));
        assert_eq!(agent.report(&report("a")), None);
        agent.renew(9);
        assert!(agent.report(&report("a")).is_some());
    }

    #[test]
    fn a_report_is_due_when_the_host_was_told_of_other_instances_or_volumes() {
        let mut agent = outbox(7);
        let before = report("a");
        let sent = agent.report(&before).expect("due");
        assert!(agent.answered(7, sent.seq));
        let after = Report { told: 9, ..before };
        assert!(agent.report(&after).is_some());
    }

    #[test]
    fn an_agent_speaks_the_newest_version_that_the_controller_knows() {
        let mut agent = outbox(7);
        assert_eq!(agent.request(None, None).v, PROTOCOL);
        for version in (OLDEST_PROTOCOL..PROTOCOL).rev() {
            agent.fall_back(8);
            let report = agent.report(&report("a")).expect("it is due again");
            assert_eq!((report.v, report.session), (version, 8));
        }
        agent.fall_back(8);
        assert_eq!(agent.request(None, None).v, OLDEST_PROTOCOL);
        agent.renew(9);
        assert_eq!(agent.request(None, None).v, PROTOCOL);
    }

    #[test]
    fn an_idle_heartbeat_is_below_200_bytes() {
        let mut accepted = Accepted::default();
        accepted.accept(answer(&accepted, blobs(&["x"]), 1_000_000));
        let poll = outbox(u32::MAX).request(Some(accepted.have()), None);
        let bytes = serde_json::to_vec(&poll).expect("serialises").len();
        assert!(bytes < 200, "{bytes} bytes");
        let poll = outbox(u32::MAX).request(None, None);
        let bytes = serde_json::to_vec(&poll).expect("serialises").len();
        assert!(bytes < 80, "{bytes} bytes");
    }

    #[test]
    fn a_report_is_understood_by_controllers_of_before() {
        /// What was read of a message before `v` was looked at, up to version 5.
        #[derive(serde::Deserialize)]
        struct Before {
            v: u32,
            have: [String; 4],
        }
        let report = outbox(7).report(&report("a")).expect("due");
        let text = serde_json::to_vec(&report).expect("serialises");
        let before: Before = serde_json::from_slice(&text).expect("it is read");
        assert_eq!((before.v, before.have), (PROTOCOL, Default::default()));
    }

    #[test]
    fn a_host_says_what_it_has_where_that_may_be_news() {
        let (mut inbox, mut agent) = (Inbox::default(), outbox(7));
        let have = |name: &str| Have {
            parts: [name, "", "", ""].map(str::to_owned),
            neighbours: Some("n".into()),
        };
        let introduce = |inbox: &mut Inbox, agent: &mut Outbox| {
            let report = agent.report(&report("a")).expect("due");
            assert_eq!(inbox.admit(&report), Admit::Fresh);
            agent.answered(report.session, report.seq);
            report
        };
        introduce(&mut inbox, &mut agent);
        let first = agent.poll(&have("1:a")).expect("introduced");
        assert_eq!(inbox.have(&first), have("1:a"));
        // Its answer was lost, or told something.
        agent.polled(7, have("1:a"), false);
        assert!(agent.poll(&have("1:a")).expect("introduced").have.is_some());
        agent.polled(7, have("1:a"), true);
        let brief = agent.poll(&have("1:a")).expect("introduced");
        assert_eq!(
            (brief.have.as_ref(), inbox.have(&brief)),
            (None, have("1:a"))
        );
        let news = agent.poll(&have("2:b")).expect("introduced");
        assert_eq!(inbox.have(&news), have("2:b"));
        agent.polled(7, have("2:b"), true);
        // One that comes late is answered as what it is, and says nothing of now.
        assert_eq!(inbox.have(&first), have("1:a"));
        let brief = agent.poll(&have("2:b")).expect("introduced");
        assert_eq!(inbox.have(&brief), have("2:b"));
        // In another session the controller knows nothing yet, and an answer of the last one is none.
        agent.renew(8);
        agent.polled(7, have("2:b"), true);
        introduce(&mut inbox, &mut agent);
        let late = brief;
        let brief = agent.poll(&have("2:b")).expect("introduced");
        let nothing = Have {
            neighbours: Some(String::new()),
            ..Have::default()
        };
        let brief = SyncRequest {
            have: None,
            neighbours: None,
            ..brief
        };
        assert_eq!(inbox.have(&brief), nothing);
        // Nor does one that was admitted before the session began.
        assert_eq!(inbox.have(&SyncRequest { seq: 99, ..first }), have("1:a"));
        assert_eq!(inbox.have(&late), nothing);
        assert_eq!(inbox.have(&brief), nothing);
        assert!(agent.poll(&have("2:b")).expect("introduced").have.is_some());
        // To a controller of before everything is said.
        while agent.v >= BRIEF {
            agent.fall_back(9);
        }
        let report = introduce(&mut inbox, &mut agent);
        assert_eq!(report.have, Some(<[String; 4]>::default()));
        agent.polled(9, have("2:b"), true);
        assert!(agent.poll(&have("2:b")).expect("introduced").have.is_some());
    }
}
