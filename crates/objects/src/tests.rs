//! The store with its files, without HTTP: what damage, restarts, slow readers and time do to objects.

use crate::access::asked_by;
use crate::{Cloud, Rules, Settings, Store};
use base64::Engine;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Uri};
use s3s::dto::*;
use s3s::{S3Request, S3Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

mod encryption;
mod held;
mod histories;

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
        let mut request = request(input);
        // What is locked wants one.
        let md5 = base64::engine::general_purpose::STANDARD
            .encode(<md5::Md5 as md5::Digest>::digest(bytes));
        let header = http::HeaderValue::from_str(&md5).unwrap();
        request.headers.insert("content-md5", header);
        self.store.put_object(request).await.unwrap();
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

    /// Versions and delete markers.
    async fn versions(&self) -> (usize, usize) {
        let page = self.page_of_versions(1000, None).await;
        (
            page.versions.unwrap().len(),
            page.delete_markers.unwrap().len(),
        )
    }

    async fn page_of_versions(
        &self,
        most: i32,
        after: Option<(String, String)>,
    ) -> ListObjectVersionsOutput {
        let (key_marker, version_id_marker) = after.unzip();
        let input = ListObjectVersionsInput {
            bucket: BUCKET.into(),
            max_keys: Some(most),
            key_marker,
            version_id_marker,
            ..Default::default()
        };
        let page = self.store.list_object_versions(request(input)).await;
        page.unwrap()
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
        self.store.run_lifecycle().await;
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
async fn a_key_that_has_gone_meanwhile_keeps_no_other_from_expiring() {
    let here = Here::new().await;
    here.rules(vec![expire_after(1)]).await;
    here.put("k", b"x").await;
    here.now.fetch_add(3 * DAY_MS, Ordering::Relaxed);
    let keys = vec![b"gone".to_vec(), b"k".to_vec()];
    here.store.expire(BUCKET, keys).await.unwrap();
    assert_eq!(here.read("k").await.unwrap_err(), "NoSuchKey");
}

#[tokio::test]
async fn what_was_set_counts_although_whoever_asked_has_gone() {
    let here = Here::new().await;
    let set = here.store.set("account".into(), BUCKET.into(), |config| {
        config.ownership = crate::rows::Ownership::ObjectWriter;
    });
    // It is on its way when the connection ends, and with it the future.
    let _ = futures_util::FutureExt::now_or_never(Box::pin(set));
    here.put("k", b"").await;
    let known = here.store.db.known.get(BUCKET).unwrap();
    assert!(known.governed.is_some(), "ACLs are in force");
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
    // In the first piece: an error. Later: a body that breaks off before the damaged piece.
    for (at, served) in [(5, 0), (2_500_000_u64, 2 << 20)] {
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
async fn a_bucket_that_cant_be_read_keeps_no_rule_of_another_waiting() {
    let here = Here::new().await;
    let other = CreateBucketInput {
        bucket: "a-damaged-one".into(),
        ..Default::default()
    };
    here.store.create_bucket(request(other)).await.unwrap();
    let rules = PutBucketLifecycleConfigurationInput {
        bucket: "a-damaged-one".into(),
        lifecycle_configuration: Some(BucketLifecycleConfiguration {
            rules: vec![expire_after(1)],
        }),
        ..Default::default()
    };
    let put = here
        .store
        .put_bucket_lifecycle_configuration(request(rules));
    put.await.unwrap();
    here.rules(vec![expire_after(1)]).await;
    here.put("k", b"x").await;
    let damage = |tx: &crate::db::Tx<'_>| {
        let row = "INSERT INTO versions SELECT * FROM versions";
        let columns = "UPDATE temp.copied SET about = 'damaged', bucket =
             (SELECT id FROM buckets WHERE name = 'a-damaged-one')";
        let all = format!(
            "CREATE TEMP TABLE copied AS SELECT * FROM versions; {columns}; {row_from}",
            row_from = row.replace("FROM versions", "FROM temp.copied")
        );
        tx.connection.execute_batch(&all).unwrap();
        Ok(())
    };
    here.store.db.write(damage).await.unwrap();
    here.after(2).await;
    assert_eq!(here.versions().await, (0, 0));
}

#[tokio::test]
async fn room_is_promised_for_what_is_still_to_come() {
    let here = Here::new().await;
    let contents = &here.store.contents;
    let disk = nix::sys::statvfs::statvfs(here.folder.path()).unwrap();
    let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
    let mut room = contents.room(free / 2).unwrap();
    assert!(contents.room(free * 3 / 4).is_err(), "half is promised");
    room.take(free / 2);
    contents.room(free * 3 / 4).unwrap();
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

/// Whoever deletes page by page asks for what comes after a version that is gone.
#[tokio::test]
async fn a_page_of_versions_goes_on_after_one_that_was_deleted() {
    let here = Here::versioned().await;
    for number in 0..5u8 {
        here.put("a", &[number]).await;
    }
    let (mut seen, mut after) = (0, None);
    loop {
        let page = here.page_of_versions(2, after).await;
        for version in page.versions.unwrap() {
            seen += 1;
            let input = DeleteObjectInput {
                bucket: BUCKET.into(),
                key: "a".into(),
                version_id: version.version_id,
                ..Default::default()
            };
            here.store.delete_object(request(input)).await.unwrap();
        }
        after = page.next_key_marker.zip(page.next_version_id_marker);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, 5);
    assert_eq!(here.versions().await, (0, 0));
}
