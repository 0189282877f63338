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
        "PutBucketEncryption" | "DeleteBucketEncryption" => "PutEncryptionConfiguration".into(),
        "DeleteBucketOwnershipControls" => "PutBucketOwnershipControls".into(),
        "DeleteBucketReplication" => "PutReplicationConfiguration".into(),
        "GetBucketAnalyticsConfiguration" | "ListBucketAnalyticsConfigurations" => {
            "GetAnalyticsConfiguration".into()
        }
        "GetBucketIntelligentTieringConfiguration"
        | "ListBucketIntelligentTieringConfigurations" => {
            "GetIntelligentTieringConfiguration".into()
        }
        "GetBucketInventoryConfiguration" | "ListBucketInventoryConfigurations" => {
            "GetInventoryConfiguration".into()
        }
        "GetBucketMetricsConfiguration" | "ListBucketMetricsConfigurations" => {
            "GetMetricsConfiguration".into()
        }
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

/// Actions on buckets and objects that a policy may name besides those of the operations above (AWS,
/// "Actions, resources, and condition keys for Amazon S3").
const OTHERS: &str = "AbortMultipartUpload BypassGovernanceRetention CreateBucket CreateSession \
    DeleteBucket DeleteBucketPolicy DeleteBucketWebsite DeleteObject DeleteObjectTagging \
    DeleteObjectVersion DeleteObjectVersionTagging GetAccelerateConfiguration \
    GetAnalyticsConfiguration GetBucketAcl GetBucketCORS GetBucketLocation GetBucketLogging \
    GetBucketNotification GetBucketObjectLockConfiguration GetBucketOwnershipControls \
    GetBucketPolicy GetBucketPolicyStatus GetBucketPublicAccessBlock GetBucketRequestPayment \
    GetBucketTagging GetBucketVersioning GetBucketWebsite GetEncryptionConfiguration \
    GetIntelligentTieringConfiguration GetInventoryConfiguration GetLifecycleConfiguration \
    GetMetricsConfiguration GetObject GetObjectAcl GetObjectAttributes GetObjectLegalHold \
    GetObjectRetention GetObjectTagging GetObjectTorrent GetObjectVersion GetObjectVersionAcl \
    GetObjectVersionAttributes GetObjectVersionForReplication GetObjectVersionTagging \
    GetObjectVersionTorrent GetReplicationConfiguration InitiateReplication ListBucket \
    ListBucketMultipartUploads ListBucketVersions ListMultipartUploadParts ListTagsForResource \
    ObjectOwnerOverrideToBucketOwner PutAccelerateConfiguration PutAnalyticsConfiguration \
    PutBucketAcl PutBucketCORS PutBucketLogging PutBucketNotification \
    PutBucketObjectLockConfiguration PutBucketOwnershipControls PutBucketPolicy \
    PutBucketPublicAccessBlock PutBucketRequestPayment PutBucketTagging PutBucketVersioning \
    PutBucketWebsite PutEncryptionConfiguration PutIntelligentTieringConfiguration \
    PutInventoryConfiguration PutLifecycleConfiguration PutMetricsConfiguration PutObject \
    PutObjectAcl PutObjectLegalHold PutObjectRetention PutObjectTagging PutObjectVersionAcl \
    PutObjectVersionTagging PutReplicationConfiguration ReplicateDelete ReplicateObject \
    ReplicateTags RestoreObject TagResource UntagResource UpdateObjectEncryption";

/// Whether a pattern of a policy means any action at all.
pub fn is_known(pattern: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let mut all = OTHERS.split_whitespace();
    all.any(|name| super::wild(&pattern, &format!("s3:{}", name.to_ascii_lowercase())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_that_is_served_has_a_known_action() {
        for operation in crate::SERVED {
            for versioned in [false, true] {
                let action = action(operation, versioned);
                // Accounts list their buckets, and no bucket's policy is asked.
                assert!(is_known(&action) || *operation == "ListBuckets", "{action}");
            }
        }
        assert!(is_known("s3:get*") && is_known("*") && is_known("s3:*"));
        assert!(!is_known("s3:GetObjcet") && !is_known("ec2:*"));
    }
}
