//! The store with its files, without HTTP: what damage, restarts, slow readers and time do to objects.

use crate::access::asked_by;
use crate::{Cloud, Rules, Settings, Store};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Uri};
use s3s::dto::*;
use s3s::{S3Request, S3Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const DAY_MS: i64 = 24 * 3600 * 1000;
pub const BUCKET: &str = "bucket";

struct NoKeys;

impl Cloud for NoKeys {
    fn find(&self, _: &str) -> Option<(String, String)> {
        None
    }

    fn account_of(&self, _: &str) -> Option<String> {
        None
    }

    fn rules(&self) -> Rules {
        Rules::default()
    }
}

pub fn request<T>(input: T) -> S3Request<T> {
    S3Request {
        input,
        method: Method::GET,
        uri: Uri::from_static("/"),
        headers: HeaderMap::new(),
        extensions: asked_by("account"),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

/// A store with one bucket, and a clock that the test turns.
pub struct Here {
    folder: Folder,
    pub store: Arc<Store>,
    now: Arc<AtomicI64>,
}

/// Where a store is: a folder of the test's, or one that outlives it.
enum Folder {
    Own(tempfile::TempDir),
    Given(PathBuf),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Folder::Own(folder) => folder.path(),
            Folder::Given(path) => path,
        }
    }
}

impl Here {
    async fn new() -> Self {
        Self::at(Folder::Own(tempfile::tempdir().unwrap())).await
    }

    pub async fn in_folder(folder: &Path) -> Self {
        Self::at(Folder::Given(folder.to_owned())).await
    }

    async fn at(folder: Folder) -> Self {
        let now = Arc::new(AtomicI64::new(20_000 * DAY_MS));
        let here = Self {
            store: open(folder.path(), &now),
            folder,
            now,
        };
        let input = CreateBucketInput {
            bucket: BUCKET.into(),
            ..Default::default()
        };
        here.store.create_bucket(request(input)).await.unwrap();
        here
    }

    async fn versioned() -> Self {
        let here = Self::new().await;
        here.store
            .set("account".into(), BUCKET.into(), |config| {
                config.versioning = Some(crate::rows::Versioning::Enabled);
            })
            .await
            .unwrap();
        here
    }

    pub async fn put(&self, key: &str, bytes: &[u8]) {
        let body = crate::read::whole(Bytes::copy_from_slice(bytes));
        let input = PutObjectInput {
            bucket: BUCKET.into(),
            key: key.into(),
            body: Some(body),
            ..Default::default()
        };
        self.store.put_object(request(input)).await.unwrap();
    }

    async fn get(&self, key: &str) -> S3Result<StreamingBlob> {
        let input = GetObjectInput {
            bucket: BUCKET.into(),
            key: key.into(),
            ..Default::default()
        };
        Ok(self.store.get_object(request(input)).await?.body.unwrap())
    }

    pub async fn read(&self, key: &str) -> Result<Vec<u8>, String> {
        let mut body = self
            .get(key)
            .await
            .map_err(|error| error.code().as_str().to_owned())?;
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| error.to_string())?);
        }
        Ok(bytes)
    }

    pub async fn delete(&self, key: &str) {
        let input = DeleteObjectInput {
            bucket: BUCKET.into(),
            key: key.into(),
            ..Default::default()
        };
        self.store.delete_object(request(input)).await.unwrap();
    }

    pub async fn put_in_parts(&self, key: &str, bytes: &[u8], part: usize) {
        let input = CreateMultipartUploadInput {
            bucket: BUCKET.into(),
            key: key.into(),
            ..Default::default()
        };
        let upload = self
            .store
            .create_multipart_upload(request(input))
            .await
            .unwrap();
        let upload = upload.upload_id.unwrap();
        let mut parts = Vec::new();
        for (number, piece) in (1..).zip(bytes.chunks(part)) {
            let input = UploadPartInput::builder()
                .bucket(BUCKET.into())
                .key(key.into())
                .upload_id(upload.clone())
                .part_number(number)
                .body(Some(crate::read::whole(Bytes::copy_from_slice(piece))))
                .build()
                .unwrap();
            let e_tag = self.store.upload_part(request(input)).await.unwrap().e_tag;
            parts.push(CompletedPart {
                e_tag,
                part_number: Some(number),
                ..Default::default()
            });
        }
        let input = CompleteMultipartUploadInput::builder()
            .bucket(BUCKET.into())
            .key(key.into())
            .upload_id(upload)
            .multipart_upload(Some(CompletedMultipartUpload { parts: Some(parts) }))
            .build()
            .unwrap();
        self.store
            .complete_multipart_upload(request(input))
            .await
            .unwrap();
    }

    /// The contents that rows say are files.
    pub async fn contents_in_files(&self) -> std::collections::BTreeSet<i64> {
        let look = |db: &rusqlite::Connection| {
            let mut select = db
                .prepare("SELECT id FROM contents WHERE bytes IS NULL")
                .unwrap();
            let rows = select.query_map([], |row| row.get(0)).unwrap();
            Ok(rows.map(Result::unwrap).collect())
        };
        self.store.db.read(look).await.unwrap()
    }

    async fn versions(&self) -> (usize, usize) {
        let input = ListObjectVersionsInput {
            bucket: BUCKET.into(),
            ..Default::default()
        };
        let page = self
            .store
            .list_object_versions(request(input))
            .await
            .unwrap();
        (
            page.versions.unwrap().len(),
            page.delete_markers.unwrap().len(),
        )
    }

    async fn rules(&self, rules: Vec<LifecycleRule>) {
        let input = PutBucketLifecycleConfigurationInput {
            bucket: BUCKET.into(),
            lifecycle_configuration: Some(BucketLifecycleConfiguration { rules }),
            ..Default::default()
        };
        self.store
            .put_bucket_lifecycle_configuration(request(input))
            .await
            .unwrap();
    }

    /// So many days later.
    async fn after(&self, days: i64) {
        self.now.fetch_add(days * DAY_MS, Ordering::Relaxed);
        self.store.run_lifecycle().await.unwrap();
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(self.folder.path().join("data")).unwrap();
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().path()).collect()
    }

    /// The store as a new process finds it.
    async fn again(mut self) -> Self {
        drop(self.store);
        self.store = open(self.folder.path(), &self.now);
        self
    }
}

fn settings() -> Settings {
    Settings {
        region: "us-east-1".into(),
        endpoint: "http://here".into(),
        master_key: None,
    }
}

fn open(folder: &Path, now: &Arc<AtomicI64>) -> Arc<Store> {
    let settings = settings();
    let now = now.clone();
    let clock = Arc::new(move || now.load(Ordering::Relaxed));
    Store::open(folder, settings, Arc::new(NoKeys), clock).unwrap()
}

pub fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 253) as u8).collect()
}

fn rule() -> LifecycleRule {
    LifecycleRule {
        abort_incomplete_multipart_upload: None,
        expiration: None,
        filter: Some(LifecycleRuleFilter::default()),
        id: None,
        noncurrent_version_expiration: None,
        noncurrent_version_transitions: None,
        prefix: None,
        status: ExpirationStatus::from_static(ExpirationStatus::ENABLED),
        transitions: None,
    }
}

fn expire_after(days: i32) -> LifecycleRule {
    let expiration = LifecycleExpiration {
        days: Some(days),
        ..Default::default()
    };
    LifecycleRule {
        expiration: Some(expiration),
        ..rule()
    }
}

#[tokio::test]
async fn a_flipped_bit_is_never_served() {
    let here = Here::new().await;
    let content = bytes(3 << 20);
    here.put("k", &content).await;
    let [file] = &here.files()[..] else {
        panic!("one file")
    };
    let file = std::fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open(file)
        .unwrap();
    // In the first piece: an error. Later: a body that breaks off before the damage.
    for (at, served) in [(5, 0), (2_500_000, 2 << 20)] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let found = match here.get("k").await {
            Err(error) => {
                assert_eq!(error.code().as_str(), "InternalError");
                0
            }
            Ok(mut body) => {
                let mut got = Vec::new();
                while let Some(Ok(piece)) = body.next().await {
                    got.extend_from_slice(&piece);
                }
                assert!(content.starts_with(&got));
                got.len()
            }
        };
        assert_eq!(found, served);
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(here.read("k").await.unwrap(), content);
    file.set_len(1 << 20).unwrap();
    assert!(here.read("k").await.is_err());
}

#[tokio::test]
async fn a_start_removes_what_has_no_row_and_keeps_the_rest() {
    let here = Here::new().await;
    for (key, len) in [("empty", 0), ("small", 1000), ("large", 1 << 20)] {
        here.put(key, &bytes(len)).await;
    }
    let [file] = &here.files()[..] else {
        panic!("one file")
    };
    let torn = file.with_file_name("00000000000000ff");
    std::fs::write(&torn, b"half a bo").unwrap();
    let here = here.again().await;
    assert!(!torn.exists());
    for (key, len) in [("empty", 0), ("small", 1000), ("large", 1 << 20)] {
        assert_eq!(here.read(key).await.unwrap(), bytes(len), "{key}");
    }
    here.put("more", &bytes(1 << 20)).await;
    assert_eq!(here.files().len(), 2);
}

#[tokio::test]
async fn what_is_being_read_is_collected_when_it_has_been() {
    let here = Here::new().await;
    let content = bytes(9 << 20);
    here.put("k", &content).await;
    let mut body = here.get("k").await.unwrap();
    let mut got = body.next().await.unwrap().unwrap().to_vec();
    here.delete("k").await;
    here.store.collect().await.unwrap();
    assert_eq!(here.read("k").await.unwrap_err(), "NoSuchKey");
    assert_eq!(here.files().len(), 1);
    while let Some(piece) = body.next().await {
        got.extend_from_slice(&piece.unwrap());
    }
    assert!(got == content);
    drop(body);
    // The task that reads has let go of it by the time that its last piece is here, or soon.
    for _ in 0..1000 {
        here.store.collect().await.unwrap();
        if here.files().is_empty() {
            return;
        }
        tokio::task::yield_now().await;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("the file is still there");
}

/// A slow check must not keep the collector waiting.
#[tokio::test]
async fn what_is_checked_slowly_can_be_collected() {
    let here = Here::new().await;
    for n in 0..3 {
        here.put(&format!("k{n}"), &bytes(2 << 20)).await;
    }
    let store = here.store.clone();
    let slow = tokio::spawn(async move { store.check(0, u64::MAX, Some(1 << 20)).await });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    for n in 0..3 {
        here.delete(&format!("k{n}")).await;
    }
    here.store.collect().await.unwrap();
    assert_eq!(here.files().len(), 0);
    assert!(!slow.is_finished());
    assert!(slow.await.unwrap().unwrap().damaged.is_empty());
}

#[tokio::test]
async fn lifecycle_rules_are_carried_out() {
    let here = Here::new().await;
    here.rules(vec![LifecycleRule {
        filter: Some(LifecycleRuleFilter {
            prefix: Some("log/".into()),
            ..Default::default()
        }),
        ..expire_after(2)
    }])
    .await;
    // More than are looked at in one go.
    for n in 0..600 {
        here.put(&format!("log/{n}"), b"x").await;
    }
    here.put("kept", b"x").await;
    here.after(1).await;
    assert_eq!(here.versions().await, (601, 0));
    here.after(1).await;
    assert_eq!(here.versions().await, (1, 0));
}

#[tokio::test]
async fn versions_are_hidden_then_removed_then_their_markers() {
    let here = Here::versioned().await;
    let expiration = LifecycleExpiration {
        days: Some(1),
        ..Default::default()
    };
    let noncurrent = NoncurrentVersionExpiration {
        noncurrent_days: Some(2),
        ..Default::default()
    };
    here.rules(vec![LifecycleRule {
        expiration: Some(expiration),
        noncurrent_version_expiration: Some(noncurrent),
        ..rule()
    }])
    .await;
    here.put("k", b"one").await;
    here.put("k", b"two").await;
    here.after(1).await;
    assert_eq!(here.versions().await, (2, 1));
    assert_eq!(here.read("k").await.unwrap_err(), "NoSuchKey");
    here.after(1).await;
    assert_eq!(
        here.versions().await,
        (1, 1),
        "the older one has been noncurrent for two days"
    );
    here.after(1).await;
    assert_eq!(here.versions().await, (0, 1));
    here.after(1).await;
    assert_eq!(
        here.versions().await,
        (0, 0),
        "a marker with nothing behind it expires too"
    );
}

/// Hiding the null version lets go of it: the rule must not do that once more.
#[tokio::test]
async fn a_rule_lets_go_of_a_suspended_version_once() {
    let here = Here::new().await;
    let content = bytes(200_000);
    here.put("k", &content).await;
    let input = CopyObjectInput::builder()
        .bucket(BUCKET.into())
        .key("copy/k".into())
        .copy_source(CopySource::parse("bucket/k").unwrap())
        .build()
        .unwrap();
    here.store.copy_object(request(input)).await.unwrap();
    for versioning in [
        crate::rows::Versioning::Enabled,
        crate::rows::Versioning::Suspended,
    ] {
        here.store
            .set("account".into(), BUCKET.into(), move |config| {
                config.versioning = Some(versioning);
            })
            .await
            .unwrap();
        if versioning == crate::rows::Versioning::Enabled {
            here.put("k", b"newer").await;
        }
    }
    let noncurrent = NoncurrentVersionExpiration {
        noncurrent_days: Some(1),
        ..Default::default()
    };
    here.rules(vec![LifecycleRule {
        filter: Some(LifecycleRuleFilter {
            prefix: Some("k".into()),
            ..Default::default()
        }),
        noncurrent_version_expiration: Some(noncurrent),
        ..expire_after(1)
    }])
    .await;
    here.after(3).await;
    here.store.collect().await.unwrap();
    assert_eq!(here.read("k").await.unwrap_err(), "NoSuchKey");
    assert!(here.read("copy/k").await.unwrap() == content);
}

#[tokio::test]
async fn rules_without_end_stop_nothing() {
    let here = Here::new().await;
    here.rules(vec![expire_after(i32::MAX)]).await;
    here.put("k", b"x").await;
    assert_eq!(here.read("k").await.unwrap(), b"x");
}

/// A bug in one request must not end all writing.
#[tokio::test]
async fn a_request_that_panics_changes_nothing_and_the_next_ones_go_on() {
    let here = Here::new().await;
    let panicked = here
        .store
        .db
        .write(|tx| -> S3Result<()> {
            tx.connection.execute("DELETE FROM buckets", []).unwrap();
            panic!("a bug")
        })
        .await;
    assert_eq!(panicked.unwrap_err().code().as_str(), "ServiceUnavailable");
    here.put("k", b"x").await;
    assert_eq!(here.read("k").await.unwrap(), b"x");
}

#[tokio::test]
async fn files_without_their_database_are_not_thrown_away() {
    let here = Here::new().await;
    here.put("k", &bytes(200_000)).await;
    let path = here.folder.path().to_owned();
    drop(here.store);
    // Its writer may still be at work.
    for name in ["objects.db", "objects.db-wal", "objects.db-shm"] {
        let _ = std::fs::remove_file(path.join(name));
    }
    let refused = Store::open(&path, settings(), Arc::new(NoKeys), Arc::new(|| 0))
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("restore it from a backup"),
        "{refused}"
    );
    let files = std::fs::read_dir(path.join("data")).unwrap();
    assert!(
        files
            .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
            .count()
            == 1
    );
}

#[tokio::test]
async fn locked_versions_outlive_rules_and_old_uploads_dont() {
    let here = Here::versioned().await;
    let lock = ObjectLockConfiguration {
        object_lock_enabled: Some(ObjectLockEnabled::from_static("Enabled")),
        rule: Some(ObjectLockRule {
            default_retention: Some(DefaultRetention {
                days: Some(5),
                mode: Some(ObjectLockRetentionMode::from_static("COMPLIANCE")),
                years: None,
            }),
        }),
    };
    let input = PutObjectLockConfigurationInput {
        bucket: BUCKET.into(),
        object_lock_configuration: Some(lock),
        ..Default::default()
    };
    here.store
        .put_object_lock_configuration(request(input))
        .await
        .unwrap();
    let noncurrent = NoncurrentVersionExpiration {
        noncurrent_days: Some(1),
        ..Default::default()
    };
    let abort = AbortIncompleteMultipartUpload {
        days_after_initiation: Some(1),
    };
    here.rules(vec![LifecycleRule {
        noncurrent_version_expiration: Some(noncurrent),
        abort_incomplete_multipart_upload: Some(abort),
        ..rule()
    }])
    .await;
    let input = CreateMultipartUploadInput {
        bucket: BUCKET.into(),
        key: "u".into(),
        ..Default::default()
    };
    here.store
        .create_multipart_upload(request(input))
        .await
        .unwrap();
    here.put("k", b"one").await;
    here.put("k", b"two").await;
    here.after(3).await;
    assert_eq!(here.versions().await, (2, 0));
    let input = ListMultipartUploadsInput {
        bucket: BUCKET.into(),
        ..Default::default()
    };
    let uploads = here
        .store
        .list_multipart_uploads(request(input))
        .await
        .unwrap()
        .uploads;
    assert_eq!(uploads.unwrap().len(), 0);
    here.after(3).await;
    assert_eq!(here.versions().await, (1, 0));
}

fn with_headers<T>(input: T, headers: &[(&'static str, &str)]) -> S3Request<T> {
    let mut request = request(input);
    for (name, value) in headers {
        request.headers.insert(*name, value.parse().unwrap());
    }
    request
}

/// All bytes that are on the disk, file by file.
fn on_the_disk(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(on_the_disk(&path)),
            false => all.extend(std::fs::read(path).unwrap()),
        }
    }
    all
}

const SECRET: &[u8] = b"a line that must not be found on the disk";

fn put_secret(key: &str, times: usize) -> PutObjectInput {
    PutObjectInput {
        bucket: BUCKET.into(),
        key: key.into(),
        body: Some(crate::read::whole(Bytes::from(SECRET.repeat(times)))),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_is_encrypted_is_nowhere_on_the_disk() {
    let here = Here::new().await;
    let found = |here: &Here| {
        let all = on_the_disk(here.folder.path());
        all.windows(SECRET.len()).any(|window| window == SECRET)
    };
    let aes = [("x-amz-server-side-encryption", "AES256")];
    for (key, times) in [("small", 10), ("large", 20_000)] {
        let request = with_headers(put_secret(key, times), &aes);
        here.store.put_object(request).await.unwrap();
    }
    assert!(!found(&here));
    assert_eq!(here.read("small").await.unwrap(), SECRET.repeat(10));
    let here = here.again().await;
    assert_eq!(here.read("large").await.unwrap(), SECRET.repeat(20_000));
    let input = GetObjectInput {
        bucket: BUCKET.into(),
        key: "large".into(),
        range: Some(Range::Int {
            first: 300_000,
            last: Some(600_001),
        }),
        ..Default::default()
    };
    let mut body = here
        .store
        .get_object(request(input))
        .await
        .unwrap()
        .body
        .unwrap();
    let mut part = Vec::new();
    while let Some(piece) = body.next().await {
        part.extend(piece.unwrap());
    }
    assert_eq!(part, SECRET.repeat(20_000)[300_000..=600_001]);
    // The same bytes without a wish are found, so that the search is one.
    here.store
        .put_object(request(put_secret("open", 1)))
        .await
        .unwrap();
    assert!(found(&here));
}

#[tokio::test]
async fn without_its_master_key_a_store_with_encrypted_objects_does_not_open() {
    let here = Here::new().await;
    let aes = [("x-amz-server-side-encryption", "AES256")];
    let request = with_headers(put_secret("k", 1), &aes);
    here.store.put_object(request).await.unwrap();
    let path = here.folder.path().to_owned();
    let key = path.join("master.key");
    let kept = std::fs::read_to_string(&key).unwrap();
    drop(here.store);
    let refused = |path: &Path| {
        let opened = Store::open(path, settings(), Arc::new(NoKeys), Arc::new(|| 0));
        opened.err().unwrap().to_string()
    };
    std::fs::remove_file(&key).unwrap();
    assert!(refused(&path).contains("is missing; restore it"));
    assert!(!key.exists(), "no new one takes its place");
    std::fs::write(&key, "00".repeat(32)).unwrap();
    assert!(refused(&path).contains("is another one; restore it"));
    std::fs::write(&key, kept).unwrap();
    let store = open(&path, &here.now);
    let here = Here {
        store,
        folder: here.folder,
        now: here.now,
    };
    assert_eq!(here.read("k").await.unwrap(), SECRET);
}

#[tokio::test]
async fn sealed_bytes_that_were_changed_are_not_served() {
    let here = Here::new().await;
    let aes = [("x-amz-server-side-encryption", "AES256")];
    let request = with_headers(put_secret("k", 20_000), &aes);
    here.store.put_object(request).await.unwrap();
    // Somebody who knows the format changes a block and its checksum, too.
    let path = here.files().pop().unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open(path)
        .unwrap();
    let mut block = vec![0; crate::contents::BLOCK];
    file.read_exact_at(&mut block, 0).unwrap();
    block[7] ^= 1;
    file.write_all_at(&block, 0).unwrap();
    let sum = crate::sum::crc32c(&block).to_le_bytes();
    here.store
        .db
        .write(move |tx| {
            let mut sums: Vec<u8> = tx
                .connection
                .query_row("SELECT sums FROM contents", [], |row| row.get(0))
                .unwrap();
            sums[..4].copy_from_slice(&sum);
            tx.connection
                .execute("UPDATE contents SET sums = ?1", [sums])
                .unwrap();
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(here.read("k").await, Err("InternalError".into()));
}

#[tokio::test]
async fn a_store_of_the_first_format_opens() {
    let here = Here::new().await;
    here.put("k", b"old").await;
    let path = here.folder.path().join("objects.db");
    drop(here.store);
    {
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "ALTER TABLE contents RENAME TO newer;
             CREATE TABLE contents (
                 id INTEGER PRIMARY KEY,
                 size INTEGER NOT NULL,
                 uses INTEGER NOT NULL CHECK (uses >= 0),
                 sums BLOB NOT NULL,
                 bytes BLOB
             );
             INSERT INTO contents SELECT id, size, uses, sums, bytes FROM newer;
             DROP TABLE newer;
             UPDATE meta SET format = 1;",
        )
        .unwrap();
    }
    let store = open(here.folder.path(), &here.now);
    let here = Here {
        store,
        folder: here.folder,
        now: here.now,
    };
    assert_eq!(here.read("k").await.unwrap(), b"old");
    let format = |db: &rusqlite::Connection| {
        Ok(db
            .query_row("SELECT format FROM meta", [], |row| row.get::<_, i64>(0))
            .unwrap())
    };
    assert_eq!(here.store.db.read(format).await.unwrap(), 2);
}

impl Here {
    /// What the counters say, and what is there.
    async fn counted(&self) -> (crate::quota::Held, crate::quota::Held) {
        let look = |db: &rusqlite::Connection| {
            let counted = crate::quota::held(db, 1)?;
            let sum = |what: &str, current: i64| {
                let sql = format!(
                    "SELECT COALESCE({what}, 0) FROM versions WHERE marker = 0 AND current = {current}"
                );
                db.query_row(&sql, [], |row| row.get(0)).unwrap()
            };
            let parts = "SELECT COALESCE(SUM(size), 0) FROM parts";
            let found = crate::quota::Held {
                objects: sum("COUNT(*)", 1),
                bytes: sum("SUM(size)", 1),
                older: sum("COUNT(*)", 0),
                older_bytes: sum("SUM(size)", 0),
                upload_bytes: db.query_row(parts, [], |row| row.get(0)).unwrap(),
            };
            Ok((counted, found))
        };
        self.store.db.read(look).await.unwrap()
    }
}

#[tokio::test]
async fn counters_say_what_is_there() {
    let here = Here::new().await;
    let same = async |here: &Here, when: &str| {
        let (counted, found) = here.counted().await;
        assert_eq!(counted, found, "{when}");
        found
    };
    for (key, len) in [("a", 10), ("b", 100_000), ("a", 20)] {
        here.put(key, &bytes(len)).await;
    }
    assert_eq!(same(&here, "puts").await.bytes, 100_020);
    here.delete("b").await;
    same(&here, "a deletion").await;
    here.store
        .set("account".into(), BUCKET.into(), |config| {
            config.versioning = Some(crate::rows::Versioning::Enabled);
        })
        .await
        .unwrap();
    for len in [1, 2, 3] {
        here.put("v", &bytes(len)).await;
    }
    assert_eq!(same(&here, "versions").await.older, 2);
    here.delete("v").await;
    assert_eq!(same(&here, "a marker").await.older, 3);
    here.put_in_parts("m", &bytes(6 << 20), 5 << 20).await;
    same(&here, "an upload in parts").await;
    let input = CreateMultipartUploadInput {
        bucket: BUCKET.into(),
        key: "open".into(),
        ..Default::default()
    };
    let upload = here
        .store
        .create_multipart_upload(request(input))
        .await
        .unwrap();
    let upload = upload.upload_id.unwrap();
    for len in [100, 300] {
        let input = UploadPartInput::builder()
            .bucket(BUCKET.into())
            .key("open".into())
            .upload_id(upload.clone())
            .part_number(1)
            .body(Some(crate::read::whole(Bytes::from(bytes(len)))))
            .build()
            .unwrap();
        here.store.upload_part(request(input)).await.unwrap();
    }
    assert_eq!(same(&here, "a part twice").await.upload_bytes, 300);
    let input = AbortMultipartUploadInput::builder()
        .bucket(BUCKET.into())
        .key("open".into())
        .upload_id(upload)
        .build()
        .unwrap();
    here.store
        .abort_multipart_upload(request(input))
        .await
        .unwrap();
    assert_eq!(same(&here, "an abort").await.upload_bytes, 0);
    // A database that had no counters gets them.
    let path = here.folder.path().join("objects.db");
    let before = same(&here, "before").await;
    drop(here.store);
    {
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("DROP TABLE usage").unwrap();
    }
    let store = open(here.folder.path(), &here.now);
    let here = Here {
        store,
        folder: here.folder,
        now: here.now,
    };
    assert_eq!(same(&here, "an upgrade").await, before);
}

#[tokio::test]
async fn quotas_bound_what_is_held() {
    let here = Here::new().await;
    let put = async |key: &str, len: usize| {
        let input = PutObjectInput {
            bucket: BUCKET.into(),
            key: key.into(),
            body: Some(crate::read::whole(Bytes::from(bytes(len)))),
            ..Default::default()
        };
        let put = here.store.put_object(request(input)).await;
        put.map(|_| ())
            .map_err(|error| error.code().as_str().to_owned())
    };
    let exceeded = Err("QuotaExceeded".to_owned());
    let most = |bytes, objects| crate::Quota { bytes, objects };
    let bound = async |quota| here.store.bound_bucket(BUCKET.into(), quota).await.unwrap();
    bound(most(Some(100), Some(2))).await;
    assert_eq!(put("a", 60).await, Ok(()));
    assert_eq!(put("b", 41).await, exceeded);
    assert_eq!(
        put("a", 100).await,
        Ok(()),
        "what it replaces doesn't count"
    );
    assert_eq!(put("b", 0).await, Ok(()));
    assert_eq!(put("c", 0).await, exceeded);
    assert_eq!(
        here.read("c").await,
        Err("NoSuchKey".into()),
        "nothing is left of it"
    );
    here.delete("a").await;
    assert_eq!(put("c", 100).await, Ok(()));
    bound(most(None, None)).await;
    let account = "account".to_owned();
    here.store
        .bound_account(account.clone(), most(Some(150), None))
        .await
        .unwrap();
    assert_eq!(put("d", 51).await, exceeded);
    assert_eq!(put("d", 50).await, Ok(()));
    here.store
        .bound_account(account, most(None, None))
        .await
        .unwrap();
    assert_eq!(put("e", 100_000).await, Ok(()));
    let missing = here
        .store
        .bound_bucket("none".into(), most(None, None))
        .await;
    assert_eq!(missing.unwrap_err().code().as_str(), "NoSuchBucket");
}

#[tokio::test]
async fn damage_is_named_in_the_metrics() {
    let here = Here::new().await;
    here.put("k", &bytes(200_000)).await;
    let metrics = here.store.metrics().await.unwrap();
    assert!(metrics.contains("boira_bucket_objects{bucket=\"bucket\",account=\"account\"} 1"));
    assert!(!metrics.contains("boira_object_damaged{"));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(here.files().pop().unwrap())
        .unwrap();
    file.write_all_at(b"!", 5).unwrap();
    assert_eq!(here.read("k").await, Err("InternalError".into()));
    let named = "boira_object_damaged{object=\"bucket/k (null)\"} 1";
    assert!(here.store.metrics().await.unwrap().contains(named));
    here.put("k", &bytes(200_000)).await;
    assert!(
        !here.store.metrics().await.unwrap().contains(named),
        "it was replaced"
    );
}
