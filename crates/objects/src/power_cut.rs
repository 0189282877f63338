//! A power cut at any moment. A process writes objects under `strace`; every write, sync and removal that
//! it made is replayed up to some point, as a disk would hold it: only what was synced, all that was
//! written, or any mixture. Of what was acknowledged until then nothing may be missing or torn, and
//! nothing may be left over for good.
//!
//! A file that is new, or removed, is so for certain once its folder was synced. `-shm` is memory.

use crate::tests::{BUCKET, Here, bytes, request};
use s3s::dto::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const FOLDER: &str = "BOIRA_POWER_CUT_FOLDER";
const STEPS: usize = 24;
const KEYS: usize = 5;
/// Points of time that are looked at, at most.
const CUTS: usize = 48;

/// What a key holds, by the numbers that its bytes are made of.
type Model = BTreeMap<String, Option<Vec<u8>>>;

/// What the steps do, one after the other.
fn step(n: usize, model: &mut Model) -> (String, Option<Vec<u8>>, Kind) {
    let key = format!("k{}", n * 7 % KEYS);
    let kind = match n % 6 {
        0 => Kind::Put(900 + n * 13),
        1 => Kind::Put(200_000 + n * 1001),
        2 => Kind::Parts,
        3 => Kind::Put(70_000),
        4 => Kind::Delete,
        _ => Kind::Copy(format!("k{}", (n * 7 + 2) % KEYS)),
    };
    let content = match &kind {
        Kind::Put(len) => Some(content(n, *len)),
        Kind::Parts => Some([content(n, 5 << 20), content(n + 1, 3000)].concat()),
        Kind::Delete => None,
        Kind::Copy(from) => model.get(from).cloned().flatten(),
    };
    model.insert(key.clone(), content.clone());
    (key, content, kind)
}

enum Kind {
    Put(usize),
    Parts,
    Delete,
    Copy(String),
}

fn content(n: usize, len: usize) -> Vec<u8> {
    let mut bytes = bytes(len);
    bytes
        .iter_mut()
        .step_by(97)
        .for_each(|byte| *byte = byte.wrapping_add(n as u8));
    bytes
}

/// The process that is watched: says on standard output when a step is acknowledged. Runs under strace
/// in the process that the test below starts, and does nothing elsewhere.
#[tokio::test]
async fn workload() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let here = Here::in_folder(Path::new(&folder)).await;
    let mut model = Model::new();
    say("ack 0\n");
    for n in 0..STEPS {
        let copied = model.clone();
        let (key, content, kind) = step(n, &mut model);
        match kind {
            Kind::Put(_) => here.put(&key, &content.unwrap()).await,
            Kind::Parts => here.put_in_parts(&key, &content.unwrap(), 5 << 20).await,
            Kind::Delete => here.delete(&key).await,
            Kind::Copy(from) if copied.get(&from).cloned().flatten().is_some() && from != key => {
                let source = format!("{BUCKET}/{from}");
                let input = CopyObjectInput::builder()
                    .bucket(BUCKET.into())
                    .key(key)
                    .copy_source(CopySource::parse(&source).unwrap())
                    .build()
                    .unwrap();
                here.store.copy_object(request(input)).await.unwrap();
            }
            // There is nothing to copy: the key goes, as in the model, or stays what it is.
            Kind::Copy(from) if from != key => here.delete(&key).await,
            Kind::Copy(_) => {}
        }
        say(&format!("ack {}\n", n + 1));
        if n % 5 == 4 {
            here.store.collect().await.unwrap();
        }
    }
}

/// One write call, so that it has its place among the others.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).unwrap();
    out.flush().unwrap();
}

#[derive(Debug)]
enum Op {
    Create(String),
    Write {
        file: String,
        at: Option<usize>,
        data: Vec<u8>,
    },
    Truncate {
        file: String,
        len: usize,
    },
    Remove(String),
    /// Of a file or a folder, with the number of operations before it began.
    Sync {
        path: String,
        since: usize,
    },
    Acknowledged(usize),
}

/// Hexadecimal digits as strace writes them, `\x2f\x74`.
fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x")
        .skip(1)
        .map(|digits| u8::from_str_radix(&digits[..2], 16).unwrap())
        .collect()
}

fn path_of(text: &str) -> String {
    String::from_utf8_lossy(&unhex(text))
        .trim_end_matches(" (deleted)")
        .to_owned()
}

/// `3<\x2f…>` is the descriptor's path.
fn descriptor(text: &str) -> String {
    let inner = text.split_once('<').map_or("", |(_, rest)| rest);
    path_of(inner.split('>').next().unwrap_or_default())
}

fn read_trace(text: &str, root: &str) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut syncing: BTreeMap<&str, (String, usize)> = BTreeMap::new();
    let within = |path: &str| {
        path.strip_prefix(root)
            .map(|rest| rest.trim_start_matches('/').to_owned())
    };
    for line in text.lines() {
        let (pid, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        if rest.starts_with("<... fsync resumed") || rest.starts_with("<... fdatasync resumed") {
            if let Some((path, since)) = syncing.remove(pid) {
                ops.push(Op::Sync { path, since });
            }
            continue;
        }
        let Some((call, arguments)) = rest.split_once('(') else {
            continue;
        };
        let first = arguments.split([',', ')']).next().unwrap_or_default();
        match call {
            "openat" if arguments.contains("O_CREAT") && !arguments.contains("= -1") => {
                let name = arguments.split('"').nth(1).unwrap_or_default();
                ops.extend(within(&path_of(name)).map(Op::Create));
            }
            "write" | "pwrite64" => {
                let data = unhex(arguments.split('"').nth(1).unwrap_or_default());
                if let Some(number) = String::from_utf8_lossy(&data).strip_prefix("ack ") {
                    ops.push(Op::Acknowledged(number.trim().parse().unwrap()));
                    continue;
                }
                let Some(file) = within(&descriptor(first)) else {
                    continue;
                };
                let after = arguments.rsplit_once('"').map_or("", |(_, rest)| rest);
                let numbers: Vec<usize> = after
                    .split([',', ')', '<', '='])
                    .filter_map(|word| word.trim().parse().ok())
                    .collect();
                let at = (call == "pwrite64").then(|| numbers[1]);
                ops.push(Op::Write { file, at, data });
            }
            "ftruncate" => {
                // The call may go on in another line: `7 <unfinished ...>`.
                let len = arguments.split([',', ')']).nth(1).unwrap();
                let len = len.split('<').next().unwrap().trim().parse().unwrap();
                ops.extend(within(&descriptor(first)).map(|file| Op::Truncate { file, len }));
            }
            "unlink" | "unlinkat" => {
                let name = arguments.split('"').nth(1).unwrap_or_default();
                ops.extend(within(&path_of(name)).map(Op::Remove));
            }
            "fsync" | "fdatasync" => {
                let Some(path) = within(&descriptor(first)) else {
                    continue;
                };
                assert!(
                    call == "fdatasync" || !path.ends_with("-wal"),
                    "SQLite syncs more than it needs: see .cargo/config.toml"
                );
                match rest.contains("<unfinished") {
                    true => {
                        syncing.insert(pid, (path, ops.len()));
                    }
                    false => {
                        let since = ops.len();
                        ops.push(Op::Sync { path, since });
                    }
                }
            }
            _ => {}
        }
    }
    ops
}

/// How a disk is found after a cut.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// What was synced, and nothing else.
    Synced,
    /// All that was written.
    All,
    /// Of what wasn't synced any part.
    Some(u64),
}

#[derive(Clone, Default)]
struct File {
    synced: Vec<u8>,
    /// Changes since, with their numbers.
    pending: Vec<usize>,
    cursor: usize,
    /// Whether its folder was synced since it was made.
    certain: bool,
    /// The number of its removal, while that isn't certain.
    removed: Option<usize>,
}

fn change(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

/// The files that a cut after `count` operations leaves.
fn files_after(ops: &[Op], count: usize, found: Found) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, File> = BTreeMap::new();
    // Where `write` goes on, known when it is replayed in order.
    let mut places: BTreeMap<usize, usize> = BTreeMap::new();
    let apply =
        |bytes: &mut Vec<u8>, number: usize, places: &BTreeMap<usize, usize>| match &ops[number] {
            Op::Write { data, .. } => change(bytes, places[&number], data),
            Op::Truncate { len, .. } => bytes.resize(*len, 0),
            _ => {}
        };
    for (number, op) in ops[..count].iter().enumerate() {
        match op {
            Op::Create(name) => {
                let file = files.entry(name.clone()).or_default();
                if file.removed.is_some() {
                    *file = File::default();
                }
            }
            Op::Write { file, at, data } => {
                let file = files.entry(file.clone()).or_default();
                let place = at.unwrap_or(file.cursor);
                file.cursor = place + data.len();
                places.insert(number, place);
                file.pending.push(number);
            }
            Op::Truncate { file, .. } => {
                files.entry(file.clone()).or_default().pending.push(number)
            }
            Op::Remove(name) => {
                if let Some(file) = files.get_mut(name) {
                    file.removed = Some(number);
                }
            }
            Op::Sync { path, since } => {
                if let Some(file) = files.get_mut(path) {
                    let (done, later): (Vec<usize>, Vec<usize>) = std::mem::take(&mut file.pending)
                        .into_iter()
                        .partition(|one| one < since);
                    done.iter()
                        .for_each(|one| apply(&mut file.synced, *one, &places));
                    file.pending = later;
                    continue;
                }
                let is_in =
                    |name: &str| name.rsplit_once('/').map_or("", |(folder, _)| folder) == path;
                let gone: Vec<String> = files
                    .iter_mut()
                    .filter(|(name, _)| is_in(name))
                    .filter_map(|(name, file)| {
                        file.certain = true;
                        file.removed
                            .is_some_and(|at| at < *since)
                            .then(|| name.clone())
                    })
                    .collect();
                gone.iter().for_each(|name| drop(files.remove(name)));
            }
            Op::Acknowledged(_) => {}
        }
    }
    let mut random = match found {
        Found::Some(seed) => seed | 1,
        Found::Synced | Found::All => 0,
    };
    let mut chance = move |found: Found| match found {
        Found::Synced => false,
        Found::All => true,
        Found::Some(_) => {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random & 2 == 0
        }
    };
    let mut left = BTreeMap::new();
    for (name, file) in files {
        if name.ends_with("-shm") || (!file.certain && !chance(found)) {
            continue;
        }
        if file.removed.is_some() && chance(found) {
            continue;
        }
        let mut bytes = file.synced;
        for number in file.pending {
            if chance(found) {
                apply(&mut bytes, number, &places);
            }
        }
        left.insert(name, bytes);
    }
    left
}

/// What may be there after `acknowledged` steps, of which the last but one are certain.
fn states() -> Vec<Model> {
    let mut model: Model = (0..KEYS).map(|key| (format!("k{key}"), None)).collect();
    let mut states = vec![model.clone()];
    for n in 0..STEPS {
        step(n, &mut model);
        states.push(model.clone());
    }
    states
}

async fn check(files: &BTreeMap<String, Vec<u8>>, before: &Model, after: &Model, what: &str) {
    // Nothing of it has to outlive anything.
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let here = Here::in_folder(folder.path()).await;
    let mut found = Model::new();
    for key in before.keys() {
        let content = match here.read(key).await {
            Ok(content) => Some(content),
            Err(code) if code == "NoSuchKey" => None,
            Err(code) => panic!("{what}: {key} can't be read: {code}"),
        };
        found.insert(key.clone(), content);
    }
    let same = |model: &Model| found.iter().all(|(key, content)| model[key] == *content);
    assert!(
        same(before) || same(after),
        "{what}: what is there was never so"
    );
    here.store.collect().await.unwrap();
    let named: BTreeSet<i64> = here.contents_in_files().await;
    assert_eq!(
        here.files().len(),
        named.len(),
        "{what}: files are left over"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_power_cut() {
    if Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("SKIPPED: strace is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (home, trace) = (folder.path().join("objects"), folder.path().join("trace"));
    let status = Command::new("strace")
        .args(["-f", "-qq", "-y", "-xx", "-s", "8000000", "-o"])
        .arg(&trace)
        .args([
            "-e",
            "trace=openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink,unlinkat",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["power_cut::workload", "--nocapture", "--test-threads", "1"])
        .env(FOLDER, &home)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the workload failed");
    let text = String::from_utf8_lossy(&std::fs::read(&trace).unwrap()).into_owned();
    let ops = read_trace(&text, home.to_str().unwrap());
    let syncs = ops
        .iter()
        .filter(|op| matches!(op, Op::Sync { .. }))
        .count();
    assert!(syncs > STEPS, "{syncs} syncs were seen");
    let states = states();
    let mut acknowledged = None;
    // Right before a sync is when most is under way, and right after one when most has just become certain.
    let mut cuts = Vec::new();
    for (number, op) in ops.iter().enumerate() {
        match op {
            Op::Acknowledged(step) => {
                acknowledged = Some(*step);
                cuts.push((number + 1, *step));
            }
            Op::Sync { .. } | Op::Remove(_) => {
                cuts.extend(acknowledged.map(|step| (number, step)));
                cuts.extend(acknowledged.map(|step| (number + 1, step)));
            }
            _ => {}
        }
    }
    let every = cuts.len().div_ceil(CUTS);
    let mut looked = 0;
    for (index, (count, step)) in cuts
        .into_iter()
        .enumerate()
        .filter(|(index, _)| index % every == 0)
    {
        for found in [
            Found::Synced,
            Found::All,
            Found::Some(index as u64 * 7919 + 3),
        ] {
            let what =
                format!("cut after {count} operations, {step} steps acknowledged, {found:?}");
            let files = files_after(&ops, count, found);
            check(&files, &states[step], &states[(step + 1).min(STEPS)], &what).await;
            looked += 1;
        }
    }
    assert!(looked >= 90, "{looked} disks were looked at");
}

#[test]
fn calls_that_other_threads_interrupt_are_read() {
    let trace = "7 ftruncate(3<\\x2f\\x72\\x2f\\x66>, 12 <unfinished ...>\n8 ftruncate(3<\\x2f\\x72\\x2f\\x66>, 13) = 0\n7 <... ftruncate resumed>) = 0\n";
    let ops = read_trace(trace, "/r");
    let lengths: Vec<usize> = ops
        .iter()
        .map(|op| match op {
            Op::Truncate { file, len } if file == "f" => *len,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths, [12, 13]);
}
