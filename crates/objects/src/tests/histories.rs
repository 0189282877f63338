//! Keys that many share: what each of them saw is recorded, and there must be one order of all of it that
//! explains every answer (Herlihy and Wing, "Linearizability", 1990; the search is Wing and Gong's).

use super::*;
use rand::{Rng, SeedableRng};
use std::collections::HashSet;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Put(u32),
    /// With `If-None-Match: *`, and whether it went through.
    PutNew(u32, bool),
    Got(Option<u32>),
    Deleted,
}

impl Done {
    /// What a key holds after it, if it can be so before.
    fn after(self, before: Option<u32>) -> Option<Option<u32>> {
        match self {
            Done::Put(value) => Some(Some(value)),
            Done::PutNew(value, true) => before.is_none().then_some(Some(value)),
            Done::PutNew(_, false) => before.is_some().then_some(before),
            Done::Got(value) => (value == before).then_some(before),
            Done::Deleted => Some(None),
        }
    }
}

#[derive(Clone, Debug)]
struct Event {
    from: Instant,
    to: Instant,
    done: Done,
}

/// Whether one order explains a key's history.
fn explained(mut history: Vec<Event>) -> bool {
    history.sort_by_key(|event| event.from);
    let mut seen = HashSet::new();
    let mut ways = vec![(vec![false; history.len()], None)];
    while let Some((taken, value)) = ways.pop() {
        let open = || (0..history.len()).filter(|index| !taken[*index]);
        let Some(first_end) = open().map(|index| history[index].to).min() else {
            return true;
        };
        // Only what began before the first of the others ended can be next.
        for index in open().take_while(|index| history[*index].from <= first_end) {
            if let Some(after) = history[index].done.after(value) {
                let mut more = taken.clone();
                more[index] = true;
                if seen.insert((more.clone(), after)) {
                    ways.push((more, after));
                }
            }
        }
    }
    false
}

async fn act(here: &Here, key: &str, wish: u32, value: u32) -> Done {
    let put = |new: bool| PutObjectInput {
        bucket: BUCKET.into(),
        key: key.into(),
        body: Some(crate::read::whole(Bytes::from(
            value
                .to_be_bytes()
                .repeat(1 + 20_000 * (value as usize % 2)),
        ))),
        if_none_match: new.then_some(ETagCondition::Any),
        ..Default::default()
    };
    match wish {
        0 => {
            here.store.put_object(request(put(false))).await.unwrap();
            Done::Put(value)
        }
        1 => match here.store.put_object(request(put(true))).await {
            Ok(_) => Done::PutNew(value, true),
            Err(error) => {
                assert_eq!(error.code().as_str(), "PreconditionFailed");
                Done::PutNew(value, false)
            }
        },
        2 => {
            here.delete(key).await;
            Done::Deleted
        }
        _ => match here.read(key).await {
            Ok(bytes) => {
                assert!(bytes.chunks(4).all(|word| word == &bytes[..4]), "a mixture");
                Done::Got(Some(u32::from_be_bytes(bytes[..4].try_into().unwrap())))
            }
            Err(code) => {
                assert_eq!(code, "NoSuchKey");
                Done::Got(None)
            }
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shared_keys_are_linearizable() {
    let here = Arc::new(Here::new().await);
    let keys = ["a", "b"];
    let clients = (0..8_u32).map(|client| {
        let here = here.clone();
        tokio::spawn(async move {
            let mut random = rand::rngs::StdRng::seed_from_u64(rand::random());
            let mut events = Vec::new();
            for number in 0..120 {
                let key = random.random_range(0..keys.len());
                let (wish, value) = (random.random_range(0..6), client << 16 | number);
                let from = Instant::now();
                let done = act(&here, keys[key], wish, value).await;
                let to = Instant::now();
                events.push((key, Event { from, to, done }));
            }
            events
        })
    });
    let mut histories = vec![Vec::new(); keys.len()];
    for client in clients.collect::<Vec<_>>() {
        for (key, event) in client.await.unwrap() {
            histories[key].push(event);
        }
    }
    for history in histories {
        assert!(explained(history.clone()), "{history:?}");
    }
}

#[test]
fn a_history_that_nothing_explains_is_found() {
    let start = Instant::now();
    let event = |from: u64, to: u64, done| Event {
        from: start + std::time::Duration::from_millis(from),
        to: start + std::time::Duration::from_millis(to),
        done,
    };
    let fine = vec![
        event(0, 5, Done::Put(1)),
        event(1, 9, Done::Put(2)),
        event(6, 7, Done::Got(Some(1))),
        event(10, 11, Done::Got(Some(2))),
        event(12, 13, Done::PutNew(3, false)),
    ];
    assert!(explained(fine.clone()));
    // The newer value was read already.
    let stale = event(12, 13, Done::Got(Some(1)));
    assert!(!explained([fine, vec![stale]].concat()));
    let lost = vec![event(0, 1, Done::Put(1)), event(2, 3, Done::Got(None))];
    assert!(!explained(lost));
}
