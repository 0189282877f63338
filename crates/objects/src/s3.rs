//! The operations of S3 that are served: one line each. s3s answers `NotImplemented` for the others.

use crate::Store;
use crate::authorize::Judge;
use crate::error::{denied, internal};
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use std::sync::Arc;

pub struct Api(pub Arc<Store>);

/// Who may not list a bucket doesn't hear what isn't in it (AWS, GetObject).
fn told(error: S3Error, judge: Option<&Judge>) -> S3Error {
    let absent = *error.code() == S3ErrorCode::NoSuchKey;
    match judge {
        Some(judge) if absent && !judge.may_list() => denied(),
        _ => error,
    }
}

macro_rules! served {
    ($($operation:ident $name:ident($input:ident) -> $output:ident;)*) => {
        /// Their names, as AWS's reference has them.
        pub const SERVED: &[&str] = &[$(stringify!($operation)),*];

        #[async_trait::async_trait]
        impl S3 for Api {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                // In a task of its own: what was begun is finished, also when its client is gone.
                let store = self.0.clone();
                let judge = request.extensions.get::<Judge>().cloned();
                let task = tokio::spawn(async move { store.$name(request).await });
                let outcome = task.await.map_err(internal)?;
                outcome.map(S3Response::new).map_err(|error| told(error, judge.as_ref()))
            })*
        }
    };
}

served! {
    AbortMultipartUpload abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
    CompleteMultipartUpload complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    CopyObject copy_object(CopyObjectInput) -> CopyObjectOutput;
    CreateBucket create_bucket(CreateBucketInput) -> CreateBucketOutput;
    CreateMultipartUpload create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    DeleteBucket delete_bucket(DeleteBucketInput) -> DeleteBucketOutput;
    DeleteBucketCors delete_bucket_cors(DeleteBucketCorsInput) -> DeleteBucketCorsOutput;
    DeleteBucketEncryption delete_bucket_encryption(DeleteBucketEncryptionInput) -> DeleteBucketEncryptionOutput;
    DeleteBucketLifecycle delete_bucket_lifecycle(DeleteBucketLifecycleInput) -> DeleteBucketLifecycleOutput;
    DeleteBucketOwnershipControls delete_bucket_ownership_controls(DeleteBucketOwnershipControlsInput) -> DeleteBucketOwnershipControlsOutput;
    DeleteBucketPolicy delete_bucket_policy(DeleteBucketPolicyInput) -> DeleteBucketPolicyOutput;
    DeleteBucketReplication delete_bucket_replication(DeleteBucketReplicationInput) -> DeleteBucketReplicationOutput;
    DeleteBucketTagging delete_bucket_tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput;
    DeleteBucketWebsite delete_bucket_website(DeleteBucketWebsiteInput) -> DeleteBucketWebsiteOutput;
    DeleteObject delete_object(DeleteObjectInput) -> DeleteObjectOutput;
    DeleteObjectTagging delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput;
    DeleteObjects delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput;
    DeletePublicAccessBlock delete_public_access_block(DeletePublicAccessBlockInput) -> DeletePublicAccessBlockOutput;
    GetBucketAccelerateConfiguration get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput) -> GetBucketAccelerateConfigurationOutput;
    GetBucketAcl get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput;
    GetBucketAnalyticsConfiguration get_bucket_analytics_configuration(GetBucketAnalyticsConfigurationInput) -> GetBucketAnalyticsConfigurationOutput;
    GetBucketCors get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput;
    GetBucketEncryption get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput;
    GetBucketIntelligentTieringConfiguration get_bucket_intelligent_tiering_configuration(GetBucketIntelligentTieringConfigurationInput) -> GetBucketIntelligentTieringConfigurationOutput;
    GetBucketInventoryConfiguration get_bucket_inventory_configuration(GetBucketInventoryConfigurationInput) -> GetBucketInventoryConfigurationOutput;
    GetBucketLifecycleConfiguration get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput) -> GetBucketLifecycleConfigurationOutput;
    GetBucketLocation get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput;
    GetBucketLogging get_bucket_logging(GetBucketLoggingInput) -> GetBucketLoggingOutput;
    GetBucketMetricsConfiguration get_bucket_metrics_configuration(GetBucketMetricsConfigurationInput) -> GetBucketMetricsConfigurationOutput;
    GetBucketNotificationConfiguration get_bucket_notification_configuration(GetBucketNotificationConfigurationInput) -> GetBucketNotificationConfigurationOutput;
    GetBucketOwnershipControls get_bucket_ownership_controls(GetBucketOwnershipControlsInput) -> GetBucketOwnershipControlsOutput;
    GetBucketPolicy get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput;
    GetBucketPolicyStatus get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput;
    GetBucketReplication get_bucket_replication(GetBucketReplicationInput) -> GetBucketReplicationOutput;
    GetBucketRequestPayment get_bucket_request_payment(GetBucketRequestPaymentInput) -> GetBucketRequestPaymentOutput;
    GetBucketTagging get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput;
    GetBucketVersioning get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
    GetBucketWebsite get_bucket_website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput;
    GetObject get_object(GetObjectInput) -> GetObjectOutput;
    GetObjectAcl get_object_acl(GetObjectAclInput) -> GetObjectAclOutput;
    GetObjectAttributes get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput;
    GetObjectLegalHold get_object_legal_hold(GetObjectLegalHoldInput) -> GetObjectLegalHoldOutput;
    GetObjectLockConfiguration get_object_lock_configuration(GetObjectLockConfigurationInput) -> GetObjectLockConfigurationOutput;
    GetObjectRetention get_object_retention(GetObjectRetentionInput) -> GetObjectRetentionOutput;
    GetObjectTagging get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput;
    GetPublicAccessBlock get_public_access_block(GetPublicAccessBlockInput) -> GetPublicAccessBlockOutput;
    HeadBucket head_bucket(HeadBucketInput) -> HeadBucketOutput;
    HeadObject head_object(HeadObjectInput) -> HeadObjectOutput;
    ListBucketAnalyticsConfigurations list_bucket_analytics_configurations(ListBucketAnalyticsConfigurationsInput) -> ListBucketAnalyticsConfigurationsOutput;
    ListBucketIntelligentTieringConfigurations list_bucket_intelligent_tiering_configurations(ListBucketIntelligentTieringConfigurationsInput) -> ListBucketIntelligentTieringConfigurationsOutput;
    ListBucketInventoryConfigurations list_bucket_inventory_configurations(ListBucketInventoryConfigurationsInput) -> ListBucketInventoryConfigurationsOutput;
    ListBucketMetricsConfigurations list_bucket_metrics_configurations(ListBucketMetricsConfigurationsInput) -> ListBucketMetricsConfigurationsOutput;
    ListBuckets list_buckets(ListBucketsInput) -> ListBucketsOutput;
    ListMultipartUploads list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput;
    ListObjectVersions list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput;
    ListObjects list_objects(ListObjectsInput) -> ListObjectsOutput;
    ListObjectsV2 list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output;
    ListParts list_parts(ListPartsInput) -> ListPartsOutput;
    PutBucketAcl put_bucket_acl(PutBucketAclInput) -> PutBucketAclOutput;
    PutBucketCors put_bucket_cors(PutBucketCorsInput) -> PutBucketCorsOutput;
    PutBucketEncryption put_bucket_encryption(PutBucketEncryptionInput) -> PutBucketEncryptionOutput;
    PutBucketLifecycleConfiguration put_bucket_lifecycle_configuration(PutBucketLifecycleConfigurationInput) -> PutBucketLifecycleConfigurationOutput;
    PutBucketLogging put_bucket_logging(PutBucketLoggingInput) -> PutBucketLoggingOutput;
    PutBucketOwnershipControls put_bucket_ownership_controls(PutBucketOwnershipControlsInput) -> PutBucketOwnershipControlsOutput;
    PutBucketPolicy put_bucket_policy(PutBucketPolicyInput) -> PutBucketPolicyOutput;
    PutBucketTagging put_bucket_tagging(PutBucketTaggingInput) -> PutBucketTaggingOutput;
    PutBucketVersioning put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput;
    PutObject put_object(PutObjectInput) -> PutObjectOutput;
    PutObjectAcl put_object_acl(PutObjectAclInput) -> PutObjectAclOutput;
    PutObjectLegalHold put_object_legal_hold(PutObjectLegalHoldInput) -> PutObjectLegalHoldOutput;
    PutObjectLockConfiguration put_object_lock_configuration(PutObjectLockConfigurationInput) -> PutObjectLockConfigurationOutput;
    PutObjectRetention put_object_retention(PutObjectRetentionInput) -> PutObjectRetentionOutput;
    PutObjectTagging put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput;
    PutPublicAccessBlock put_public_access_block(PutPublicAccessBlockInput) -> PutPublicAccessBlockOutput;
    UploadPart upload_part(UploadPartInput) -> UploadPartOutput;
    UploadPartCopy upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput;
}
