//! What operations are called in policies.

/// The action that an operation is in policies; most have their own name.
pub fn action(operation: &str, of_version: bool) -> String {
    let versioned = |plain: &str, versioned: &str| {
        if of_version {
            versioned.to_owned()
        } else {
            plain.to_owned()
        }
    };
    let name = match operation {
        "ListObjects" | "ListObjectsV2" | "HeadBucket" => "ListBucket".to_owned(),
        "ListObjectVersions" => "ListBucketVersions".into(),
        "ListMultipartUploads" => "ListBucketMultipartUploads".into(),
        "ListParts" => "ListMultipartUploadParts".into(),
        "GetObject" | "HeadObject" | "GetObjectAttributes" => {
            versioned("GetObject", "GetObjectVersion")
        }
        "PutObject"
        | "CopyObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "CompleteMultipartUpload" => "PutObject".into(),
        "DeleteObject" | "DeleteObjects" => versioned("DeleteObject", "DeleteObjectVersion"),
        "GetObjectTagging" => versioned("GetObjectTagging", "GetObjectVersionTagging"),
        "PutObjectTagging" => versioned("PutObjectTagging", "PutObjectVersionTagging"),
        "DeleteObjectTagging" => versioned("DeleteObjectTagging", "DeleteObjectVersionTagging"),
        "GetObjectAcl" => versioned("GetObjectAcl", "GetObjectVersionAcl"),
        "PutObjectAcl" => versioned("PutObjectAcl", "PutObjectVersionAcl"),
        "GetBucketCors" => "GetBucketCORS".into(),
        "PutBucketCors" | "DeleteBucketCors" => "PutBucketCORS".into(),
        "GetBucketLifecycleConfiguration" => "GetLifecycleConfiguration".into(),
        "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => {
            "PutLifecycleConfiguration".into()
        }
        "GetBucketEncryption" => "GetEncryptionConfiguration".into(),
        "GetBucketReplication" => "GetReplicationConfiguration".into(),
        "GetBucketAccelerateConfiguration" => "GetAccelerateConfiguration".into(),
        "GetBucketNotificationConfiguration" => "GetBucketNotification".into(),
        "GetObjectLockConfiguration" => "GetBucketObjectLockConfiguration".into(),
        "PutObjectLockConfiguration" => "PutBucketObjectLockConfiguration".into(),
        "GetPublicAccessBlock" => "GetBucketPublicAccessBlock".into(),
        "PutPublicAccessBlock" | "DeletePublicAccessBlock" => "PutBucketPublicAccessBlock".into(),
        "DeleteBucketTagging" => "PutBucketTagging".into(),
        other => other.to_owned(),
    };
    format!("s3:{name}")
}
