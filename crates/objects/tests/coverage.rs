//! `docs/s3-coverage.md`, generated from what is dispatched.

use boira_objects::SERVED;
use std::fmt::Write;

/// S3's operations, as AWS's API reference lists them for buckets and objects.
const ALL: &str = "AbortMultipartUpload CompleteMultipartUpload CopyObject CreateBucket \
    CreateBucketMetadataConfiguration CreateBucketMetadataTableConfiguration \
    CreateMultipartUpload CreateSession DeleteBucket DeleteBucketAnalyticsConfiguration \
    DeleteBucketCors DeleteBucketEncryption DeleteBucketIntelligentTieringConfiguration \
    DeleteBucketInventoryConfiguration DeleteBucketLifecycle DeleteBucketMetadataConfiguration \
    DeleteBucketMetadataTableConfiguration DeleteBucketMetricsConfiguration \
    DeleteBucketOwnershipControls DeleteBucketPolicy DeleteBucketReplication DeleteBucketTagging \
    DeleteBucketWebsite DeleteObject DeleteObjectTagging DeleteObjects DeletePublicAccessBlock \
    GetBucketAbac GetBucketAccelerateConfiguration GetBucketAcl GetBucketAnalyticsConfiguration \
    GetBucketCors GetBucketEncryption GetBucketIntelligentTieringConfiguration \
    GetBucketInventoryConfiguration GetBucketLifecycleConfiguration GetBucketLocation \
    GetBucketLogging GetBucketMetadataConfiguration GetBucketMetadataTableConfiguration \
    GetBucketMetricsConfiguration GetBucketNotificationConfiguration GetBucketOwnershipControls \
    GetBucketPolicy GetBucketPolicyStatus GetBucketReplication GetBucketRequestPayment \
    GetBucketTagging GetBucketVersioning GetBucketWebsite GetObject GetObjectAcl \
    GetObjectAttributes GetObjectLegalHold GetObjectLockConfiguration GetObjectRetention \
    GetObjectTagging GetObjectTorrent GetPublicAccessBlock HeadBucket HeadObject \
    ListBucketAnalyticsConfigurations ListBucketIntelligentTieringConfigurations \
    ListBucketInventoryConfigurations ListBucketMetricsConfigurations ListBuckets \
    ListDirectoryBuckets ListMultipartUploads ListObjectVersions ListObjects ListObjectsV2 \
    ListParts PostObject PutBucketAbac PutBucketAccelerateConfiguration PutBucketAcl \
    PutBucketAnalyticsConfiguration PutBucketCors PutBucketEncryption \
    PutBucketIntelligentTieringConfiguration PutBucketInventoryConfiguration \
    PutBucketLifecycleConfiguration PutBucketLogging PutBucketMetricsConfiguration \
    PutBucketNotificationConfiguration PutBucketOwnershipControls PutBucketPolicy \
    PutBucketReplication PutBucketRequestPayment PutBucketTagging PutBucketVersioning \
    PutBucketWebsite PutObject PutObjectAcl PutObjectLegalHold PutObjectLockConfiguration \
    PutObjectRetention PutObjectTagging PutPublicAccessBlock RenameObject RestoreObject \
    SelectObjectContent UpdateBucketMetadataInventoryTableConfiguration \
    UpdateBucketMetadataJournalTableConfiguration UpdateObjectEncryption UploadPart \
    UploadPartCopy WriteGetObjectResponse";

/// Those that answer as AWS does for a bucket with which nothing was done.
const PLAIN: &str = "DeleteBucketReplication DeleteBucketWebsite GetBucketAccelerateConfiguration \
    GetBucketAnalyticsConfiguration GetBucketIntelligentTieringConfiguration \
    GetBucketInventoryConfiguration GetBucketLogging GetBucketMetricsConfiguration \
    GetBucketNotificationConfiguration GetBucketReplication GetBucketRequestPayment \
    GetBucketWebsite ListBucketAnalyticsConfigurations \
    ListBucketIntelligentTieringConfigurations ListBucketInventoryConfigurations \
    ListBucketMetricsConfigurations";

fn answer(operation: &str) -> &'static str {
    match operation {
        // A browser's form becomes a PutObject.
        "PostObject" => "served",
        _ if PLAIN.split_whitespace().any(|plain| plain == operation) => "plain",
        _ if SERVED.contains(&operation) => "served",
        _ => "",
    }
}

#[test]
fn the_page_of_the_documentation_is_current() {
    for name in SERVED.iter().copied().chain(PLAIN.split_whitespace()) {
        assert!(ALL.split_whitespace().any(|known| known == name), "{name}");
    }
    for name in PLAIN.split_whitespace() {
        assert!(SERVED.contains(&name), "{name}");
    }
    let all = || ALL.split_whitespace();
    let count = |wanted| all().filter(|name| answer(name) == wanted).count();
    let mut page = format!(
        "# S3 operations\n\n\
         Of S3's {} operations Boira serves {}; {} more, marked *plain*, answer what AWS answers for a \
         bucket that has no such configuration. The others answer `NotImplemented`, as does a header that \
         asks for what isn't there: none is ignored. This page is generated from the dispatch table.\n\n\
         | operation | answer |\n|---|---|\n",
        all().count(),
        count("served"),
        count("plain"),
    );
    for name in all() {
        // Writing into a string can't fail.
        let _ = writeln!(page, "| {name} | {} |", answer(name));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/s3-coverage.md");
    if std::env::var_os("BOIRA_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).expect("write the page");
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/s3-coverage.md is out of date: BOIRA_WRITE_DOCS=1 cargo test -p boira-objects --test coverage"
    );
}
