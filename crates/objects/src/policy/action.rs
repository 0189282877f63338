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

/// The known actions that a pattern of a policy means.
fn meant(pattern: &str) -> impl Iterator<Item = &'static str> {
    let pattern = pattern.to_ascii_lowercase();
    let all = OTHERS.split_whitespace();
    all.filter(move |name| super::wild(&pattern, &format!("s3:{}", name.to_ascii_lowercase())))
}

/// Whether a pattern of a policy means any action at all.
pub fn is_known(pattern: &str) -> bool {
    meant(pattern).next().is_some()
}

/// Whether a pattern means actions on buckets, and on objects.
pub fn kinds(pattern: &str) -> (bool, bool) {
    let (mut of_buckets, mut of_objects) = (false, false);
    for name in meant(pattern) {
        match name {
            "CreateSession" | "ListTagsForResource" | "TagResource" | "UntagResource" => {
                (of_buckets, of_objects) = (true, true);
            }
            "AbortMultipartUpload"
            | "BypassGovernanceRetention"
            | "InitiateReplication"
            | "ListMultipartUploadParts"
            | "ReplicateDelete"
            | "ReplicateTags" => of_objects = true,
            name if name.contains("Object") && !name.contains("BucketObjectLock") => {
                of_objects = true;
            }
            _ => of_buckets = true,
        }
    }
    (of_buckets, of_objects)
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

    #[test]
    fn an_action_is_done_to_a_bucket_or_to_what_is_in_it() {
        for (pattern, expected) in [
            ("s3:ListBucket", (true, false)),
            ("s3:GetBucketObjectLockConfiguration", (true, false)),
            ("s3:putobject", (false, true)),
            ("s3:AbortMultipartUpload", (false, true)),
            ("s3:Get*", (true, true)),
            ("*", (true, true)),
        ] {
            assert_eq!(kinds(pattern), expected, "{pattern}");
        }
    }
}
