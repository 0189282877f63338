//! Buckets and their settings. A setting that was never made answers as AWS does for a plain bucket.

use crate::Store;
use crate::access::{account, canonical, owner};
use crate::acl::{self, Acl};
use crate::authorize::blocked;
use crate::describe::second;
use crate::documents::Document;
use crate::error::{custom, internal, malformed};
use crate::front::Besides;
use crate::known::KnownBucket;
use crate::listing::{from_token, token};
use crate::multipart;
use crate::rows::{self, Bucket as Row, Config, Ownership, Upload, Versioning, json};
use crate::tagging::{Tagged, judged_set, tag_set};
use crate::walrus::Below;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use rusqlite::params;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};
use std::sync::Arc;

/// Names whose paths mean other services on this port.
const RESERVED: [&str; 2] = ["boira", "services"];
/// How no new bucket's name may begin and end (AWS, "General purpose bucket naming rules").
const RESERVED_STARTS: [&str; 2] = ["sthree-", "amzn-s3-demo-"];
const RESERVED_ENDS: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
/// Buckets of an account, at most: AWS's default quota.
const MOST: usize = 10_000;

impl Store {
    pub async fn create_bucket(
        self: &Arc<Self>,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<CreateBucketOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let name = input.bucket;
        check_name(&name)?;
        let configuration = input.create_bucket_configuration.unwrap_or_default();
        let constraint = configuration
            .location_constraint
            .as_ref()
            .map(|it| it.as_str());
        check_location(
            &self.settings.region,
            constraint.filter(|it| !it.is_empty()),
        )?;
        if configuration.bucket.is_some() || configuration.location.is_some() {
            return Err(s3_error!(
                NotImplemented,
                "There are no directory buckets here."
            ));
        }
        let rules = self.cloud.rules();
        let acls = match request.extensions.get::<Below>() {
            Some(_) => rules.walrus_acls,
            None => rules.acls,
        };
        let mut config = Config {
            ownership: match &input.object_ownership {
                Some(said) => Ownership::named(said.as_str()).ok_or_else(invalid_ownership)?,
                None if acls => Ownership::ObjectWriter,
                None => Ownership::BucketOwnerEnforced,
            },
            public_access_removed: acls,
            ..Config::default()
        };
        if let Some(document) = request.extensions.get::<Document>() {
            let tags = judged_set(document.bucket_tags()?, Tagged::Bucket)?;
            config.tags = (!tags.is_empty()).then_some(tags);
        }
        let wish = acl::Wish::of(&request.headers, |id| self.knows(id))?;
        if input.object_lock_enabled_for_bucket == Some(true) {
            config.versioning = Some(Versioning::Enabled);
            config.lock = Some(ObjectLockConfiguration {
                object_lock_enabled: Some(ObjectLockEnabled::from_static(
                    ObjectLockEnabled::ENABLED,
                )),
                rule: None,
            });
        }
        let lenient = self.settings.region == "us-east-1";
        let location = format!("/{name}");
        self.db
            .write(move |tx| {
                match rows::find_bucket(tx.connection, &name)? {
                    None => {}
                    // For old clients' sake there, and there only.
                    Some(bucket) if bucket.owner == account && lenient => {
                        let mut kept = bucket.config.clone();
                        kept.acl = first_acl(&wish, &kept, &account)?;
                        return bucket.configure(tx, &kept);
                    }
                    Some(bucket) if bucket.owner == account => {
                        return Err(s3_error!(
                            BucketAlreadyOwnedByYou,
                            "Your previous request to create the named bucket succeeded and you already own it."
                        ));
                    }
                    Some(_) => {
                        return Err(s3_error!(
                            BucketAlreadyExists,
                            "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again."
                        ));
                    }
                }
                config.acl = first_acl(&wish, &config, &account)?;
                let have: usize = tx
                    .connection
                    .query_row("SELECT COUNT(*) FROM buckets WHERE owner = ?1", [&account], |row| row.get(0))
                    .map_err(internal)?;
                if have >= MOST {
                    return Err(s3_error!(
                        TooManyBuckets,
                        "You have attempted to create more buckets than allowed"
                    ));
                }
                tx.touches_bucket(&name);
                tx.connection
                    .execute(
                        "INSERT INTO buckets (name, owner, created_ms, config) VALUES (?1, ?2, ?3, ?4)",
                        params![name, account, tx.now_ms, json(&config)],
                    )
                    .map_err(internal)?;
                Ok(())
            })
            .await?;
        Ok(CreateBucketOutput {
            location: Some(location),
        })
    }

    pub async fn delete_bucket(
        self: &Arc<Self>,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<DeleteBucketOutput> {
        let account = account(&request.extensions)?;
        let name = request.input.bucket;
        let gone = name.clone();
        self.db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &name, &account)?;
                let used: bool = tx
                    .connection
                    .query_row("SELECT EXISTS (SELECT 1 FROM versions WHERE bucket = ?1)", [bucket.id], |row| {
                        row.get(0)
                    })
                    .map_err(internal)?;
                if used {
                    let message = match bucket.config.versioning {
                        Some(_) => "The bucket you tried to delete is not empty. You must delete all versions in the bucket.",
                        None => "The bucket you tried to delete is not empty",
                    };
                    return Err(s3_error!(BucketNotEmpty, "{message}"));
                }
                for upload in uploads(tx.connection, bucket.id)? {
                    multipart::abort(tx, bucket.id, &upload)?;
                }
                tx.touches_bucket(&name);
                tx.connection
                    .execute("DELETE FROM buckets WHERE id = ?1", [bucket.id])
                    .map_err(internal)?;
                Ok(())
            })
            .await?;
        self.metrics.forget(&gone);
        self.after_write();
        Ok(DeleteBucketOutput::default())
    }

    pub async fn list_buckets(
        self: &Arc<Self>,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<ListBucketsOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let most = match input.max_buckets {
            None => MOST,
            Some(asked) if (1..=MOST as i32).contains(&asked) => asked as usize,
            Some(_) => {
                return Err(s3_error!(
                    InvalidArgument,
                    "Argument max-buckets must be an integer between 1 and 10000"
                ));
            }
        };
        let named_region = input.bucket_region.is_some();
        let elsewhere = input
            .bucket_region
            .is_some_and(|region| region != self.settings.region);
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = match &input.continuation_token {
            Some(token) => from_token(token)?,
            None => String::new(),
        };
        let caller = account.clone();
        let mut buckets = match elsewhere {
            true => Vec::new(),
            false => {
                let look = move |db: &rusqlite::Connection| {
                    rows::buckets(db, &caller, &prefix, &after, most + 1)
                };
                self.db.read(look).await?
            }
        };
        let more = buckets.len() > most;
        buckets.truncate(most);
        let next = buckets
            .last()
            .filter(|_| more)
            .map(|bucket| token(&bucket.name));
        let told_region = input.max_buckets.is_some()
            || input.prefix.is_some()
            || input.continuation_token.is_some()
            || named_region;
        let region = self.settings.region.clone();
        let shown = buckets.into_iter().map(|bucket| Bucket {
            bucket_region: told_region.then(|| region.clone()),
            creation_date: Some(second(bucket.created_ms)),
            name: Some(bucket.name),
        });
        Ok(ListBucketsOutput {
            buckets: Some(shown.collect()),
            continuation_token: next,
            owner: Some(owner(&account)),
            prefix: input.prefix,
        })
    }

    pub async fn head_bucket(
        self: &Arc<Self>,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<HeadBucketOutput> {
        self.bucket_of(&request, &request.input.bucket)?;
        Besides::say(&request.extensions, |headers, _| {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        });
        Ok(HeadBucketOutput {
            bucket_region: Some(self.settings.region.clone()),
            access_point_alias: Some(false),
            ..Default::default()
        })
    }

    pub async fn get_bucket_location(
        self: &Arc<Self>,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<GetBucketLocationOutput> {
        self.bucket_of(&request, &request.input.bucket)?;
        // That region's name is no name, in this one answer.
        let region = match self.settings.region.as_str() {
            "us-east-1" => String::new(),
            other => other.to_owned(),
        };
        Ok(GetBucketLocationOutput {
            location_constraint: Some(BucketLocationConstraint::from(region)),
        })
    }

    pub async fn get_bucket_versioning(
        self: &Arc<Self>,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<GetBucketVersioningOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        let status = bucket.config.versioning.map(|versioning| match versioning {
            Versioning::Enabled => {
                BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)
            }
            Versioning::Suspended => {
                BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED)
            }
        });
        Ok(GetBucketVersioningOutput {
            status,
            ..Default::default()
        })
    }

    pub async fn put_bucket_versioning(
        self: &Arc<Self>,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<PutBucketVersioningOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let wanted = input.versioning_configuration;
        if wanted
            .mfa_delete
            .is_some_and(|mfa| mfa.as_str() != MFADelete::DISABLED)
            || input.mfa.is_some()
        {
            return Err(s3_error!(NotImplemented, "There are no MFA devices here."));
        }
        let versioning = match wanted.status.as_ref().map(|status| status.as_str()) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            Some(_) => return Err(malformed()),
            None => {
                return Err(s3_error!(
                    IllegalVersioningConfigurationException,
                    "The Versioning element must be specified"
                ));
            }
        };
        self.configure(account, input.bucket, move |_, config| {
            if config.lock.is_some() && versioning == Versioning::Suspended {
                return Err(s3_error!(
                    InvalidBucketState,
                    "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed."
                ));
            }
            config.versioning = Some(versioning);
            Ok(())
        })
        .await?;
        Ok(PutBucketVersioningOutput::default())
    }

    pub async fn get_bucket_tagging(
        self: &Arc<Self>,
        request: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<GetBucketTaggingOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        match bucket.config.tags {
            Some(tags) => Ok(GetBucketTaggingOutput {
                tag_set: tag_set(&tags),
            }),
            None => Err(s3_error!(NoSuchTagSet, "The TagSet does not exist")),
        }
    }

    pub async fn put_bucket_tagging(
        self: &Arc<Self>,
        request: S3Request<PutBucketTaggingInput>,
    ) -> S3Result<PutBucketTaggingOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let tags = judged_set(input.tagging.tag_set, Tagged::Bucket)?;
        self.set(account, input.bucket, move |config| {
            config.tags = (!tags.is_empty()).then_some(tags);
        })
        .await?;
        // So AWS answers, whatever its reference says.
        Besides::say(&request.extensions, |_, status| {
            *status = Some(StatusCode::NO_CONTENT);
        });
        Ok(PutBucketTaggingOutput::default())
    }

    pub async fn delete_bucket_tagging(
        self: &Arc<Self>,
        request: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<DeleteBucketTaggingOutput> {
        let account = account(&request.extensions)?;
        self.set(account, request.input.bucket, |config| config.tags = None)
            .await?;
        Ok(DeleteBucketTaggingOutput::default())
    }

    pub async fn get_public_access_block(
        self: &Arc<Self>,
        request: S3Request<GetPublicAccessBlockInput>,
    ) -> S3Result<GetPublicAccessBlockOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        if bucket.config.public_access_removed {
            return Err(custom(
                "NoSuchPublicAccessBlockConfiguration",
                StatusCode::NOT_FOUND,
                "The public access block configuration was not found",
            ));
        }
        Ok(GetPublicAccessBlockOutput {
            public_access_block_configuration: Some(blocked(&bucket.config)),
        })
    }

    pub async fn put_public_access_block(
        self: &Arc<Self>,
        request: S3Request<PutPublicAccessBlockInput>,
    ) -> S3Result<PutPublicAccessBlockOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let mut wanted = input.public_access_block_configuration;
        for setting in [
            &mut wanted.block_public_acls,
            &mut wanted.block_public_policy,
            &mut wanted.ignore_public_acls,
            &mut wanted.restrict_public_buckets,
        ] {
            setting.get_or_insert(false);
        }
        self.set(account, input.bucket, move |config| {
            config.public_access = Some(wanted);
            config.public_access_removed = false;
        })
        .await?;
        Ok(PutPublicAccessBlockOutput::default())
    }

    pub async fn delete_public_access_block(
        self: &Arc<Self>,
        request: S3Request<DeletePublicAccessBlockInput>,
    ) -> S3Result<DeletePublicAccessBlockOutput> {
        let account = account(&request.extensions)?;
        self.set(account, request.input.bucket, |config| {
            config.public_access = None;
            config.public_access_removed = true;
        })
        .await?;
        Ok(DeletePublicAccessBlockOutput::default())
    }

    /// Logs of access are written for no bucket: they can only be switched off.
    pub async fn put_bucket_logging(
        self: &Arc<Self>,
        request: S3Request<PutBucketLoggingInput>,
    ) -> S3Result<PutBucketLoggingOutput> {
        self.bucket_of(&request, &request.input.bucket)?;
        match request.input.bucket_logging_status.logging_enabled {
            None => Ok(PutBucketLoggingOutput::default()),
            Some(_) => Err(s3_error!(
                NotImplemented,
                "There are no access logs of buckets; what the server does is in the controller's log."
            )),
        }
    }

    pub async fn get_bucket_request_payment(
        self: &Arc<Self>,
        request: S3Request<GetBucketRequestPaymentInput>,
    ) -> S3Result<GetBucketRequestPaymentOutput> {
        self.bucket_of(&request, &request.input.bucket)?;
        Ok(GetBucketRequestPaymentOutput {
            payer: Some(Payer::from_static(Payer::BUCKET_OWNER)),
        })
    }

    /// The bucket of a request, if it is the caller's.
    pub fn bucket_of<T>(&self, request: &S3Request<T>, name: &str) -> S3Result<Row> {
        let known = self.known(name, &account(&request.extensions)?)?;
        Ok(known.row.clone())
    }

    /// A bucket as it was last committed, if it is this account's.
    pub fn known(&self, name: &str, account: &str) -> S3Result<Arc<KnownBucket>> {
        let known = self.db.known.get(name).ok_or_else(rows::no_such_bucket)?;
        known.row.owned_by(account)?;
        Ok(known)
    }

    /// Changes a setting that depends on no other.
    pub async fn set(
        self: &Arc<Self>,
        account: String,
        name: String,
        change: impl FnOnce(&mut Config) + Send + 'static,
    ) -> S3Result<()> {
        let change = move |_: &Row, config: &mut Config| {
            change(config);
            Ok(())
        };
        self.configure(account, name, change).await
    }

    /// Changes settings of a bucket as it is now.
    pub async fn configure(
        self: &Arc<Self>,
        account: String,
        name: String,
        change: impl FnOnce(&Row, &mut Config) -> S3Result<()> + Send + 'static,
    ) -> S3Result<()> {
        self.db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &name, &account)?;
                let mut config = bucket.config.clone();
                change(&bucket, &mut config)?;
                bucket.configure(tx, &config)
            })
            .await
    }
}

/// Answers of a bucket that has no such configuration.
pub mod plain {
    use super::*;

    fn none(code: S3ErrorCode, message: &'static str) -> S3Error {
        S3Error::with_message(code, message)
    }

    fn no_configuration() -> S3Error {
        custom(
            "NoSuchConfiguration",
            StatusCode::NOT_FOUND,
            "The specified configuration does not exist.",
        )
    }

    macro_rules! absent {
        ($($operation:ident($input:ty) -> $output:ty = $error:expr;)*) => {
            impl Store {
                $(pub async fn $operation(self: &Arc<Self>, request: S3Request<$input>) -> S3Result<$output> {
                    self.bucket_of(&request, &request.input.bucket)?;
                    Err($error)
                })*
            }
        };
    }

    macro_rules! empty {
        ($($operation:ident($input:ty) -> $output:ty;)*) => {
            impl Store {
                $(pub async fn $operation(self: &Arc<Self>, request: S3Request<$input>) -> S3Result<$output> {
                    self.bucket_of(&request, &request.input.bucket)?;
                    Ok(<$output>::default())
                })*
            }
        };
    }

    absent! {
        get_bucket_replication(GetBucketReplicationInput) -> GetBucketReplicationOutput =
            none(S3ErrorCode::ReplicationConfigurationNotFoundError, "The replication configuration was not found");
        get_bucket_analytics_configuration(GetBucketAnalyticsConfigurationInput) -> GetBucketAnalyticsConfigurationOutput = no_configuration();
        get_bucket_intelligent_tiering_configuration(GetBucketIntelligentTieringConfigurationInput) -> GetBucketIntelligentTieringConfigurationOutput = no_configuration();
        get_bucket_inventory_configuration(GetBucketInventoryConfigurationInput) -> GetBucketInventoryConfigurationOutput = no_configuration();
        get_bucket_metrics_configuration(GetBucketMetricsConfigurationInput) -> GetBucketMetricsConfigurationOutput = no_configuration();
        get_bucket_website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput =
            none(S3ErrorCode::NoSuchWebsiteConfiguration, "The specified bucket does not have a website configuration");
    }

    empty! {
        get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput) -> GetBucketAccelerateConfigurationOutput;
        get_bucket_logging(GetBucketLoggingInput) -> GetBucketLoggingOutput;
        get_bucket_notification_configuration(GetBucketNotificationConfigurationInput) -> GetBucketNotificationConfigurationOutput;
        list_bucket_analytics_configurations(ListBucketAnalyticsConfigurationsInput) -> ListBucketAnalyticsConfigurationsOutput;
        list_bucket_intelligent_tiering_configurations(ListBucketIntelligentTieringConfigurationsInput) -> ListBucketIntelligentTieringConfigurationsOutput;
        list_bucket_inventory_configurations(ListBucketInventoryConfigurationsInput) -> ListBucketInventoryConfigurationsOutput;
        list_bucket_metrics_configurations(ListBucketMetricsConfigurationsInput) -> ListBucketMetricsConfigurationsOutput;
        delete_bucket_replication(DeleteBucketReplicationInput) -> DeleteBucketReplicationOutput;
        delete_bucket_website(DeleteBucketWebsiteInput) -> DeleteBucketWebsiteOutput;
    }
}

fn invalid_ownership() -> S3Error {
    s3_error!(InvalidArgument, "Invalid x-amz-object-ownership header")
}

/// The ACL that a new bucket is wished to have (AWS, CreateBucket, "Access control lists").
fn first_acl(wish: &acl::Wish, config: &Config, account: &str) -> S3Result<Option<Acl>> {
    let owner = canonical(account);
    let wanted = wish.of_bucket(&owner)?;
    let wanted = wanted.filter(|acl| *acl != Acl::private(&owner));
    match &wanted {
        Some(_) if config.ownership == Ownership::BucketOwnerEnforced => Err(acl::with_enforced()),
        Some(acl) if acl.is_public() && blocked(config).block_public_acls == Some(true) => {
            Err(acl::with_block())
        }
        _ => Ok(wanted),
    }
}

fn uploads(connection: &rusqlite::Connection, bucket: i64) -> S3Result<Vec<Upload>> {
    let mut select = connection
        .prepare_cached("SELECT key, id, initiated_ms, about, done FROM uploads WHERE bucket = ?1")
        .map_err(internal)?;
    let rows = select.query_map([bucket], Upload::of_row);
    rows.and_then(Iterator::collect).map_err(internal)
}

/// What s3s leaves open of a new bucket's name. Labels begin and end with letters and digits.
fn check_name(name: &str) -> S3Result<()> {
    let reserved = RESERVED.contains(&name)
        || RESERVED_STARTS.iter().any(|start| name.starts_with(start))
        || RESERVED_ENDS.iter().any(|end| name.ends_with(end));
    if reserved || name.contains(".-") || name.contains("-.") {
        return Err(s3_error!(
            InvalidBucketName,
            "The specified bucket is not valid."
        ));
    }
    Ok(())
}

/// AWS, CreateBucket: us-east-1 wants no constraint, every other region its own name.
fn check_location(region: &str, constraint: Option<&str>) -> S3Result<()> {
    match (region, constraint) {
        ("us-east-1", None) => Ok(()),
        (_, Some(constraint)) if constraint == region && region != "us-east-1" => Ok(()),
        // Its old name.
        ("eu-west-1", Some("EU")) => Ok(()),
        (_, Some(constraint)) if constraint == region || !is_region(constraint) => Err(s3_error!(
            InvalidLocationConstraint,
            "The specified location-constraint is not valid"
        )),
        (_, None) => Err(s3_error!(
            IllegalLocationConstraintException,
            "The unspecified location constraint is incompatible for the region specific endpoint this request was sent to."
        )),
        (_, Some(constraint)) => Err(S3Error::with_message(
            S3ErrorCode::IllegalLocationConstraintException,
            format!(
                "The {constraint} location constraint is incompatible for the region specific endpoint this request was sent to."
            ),
        )),
    }
}

/// Whether AWS may have a region of this name: `eu-west-1`, and the old `EU`.
fn is_region(name: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = name.rsplit('-');
    let last = parts.next().is_some_and(number);
    name == "EU" || (last && parts.clone().count() >= 2 && parts.all(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(outcome: S3Result<()>) -> String {
        match outcome {
            Ok(()) => String::new(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    #[test]
    fn names_that_aws_keeps_and_labels_that_a_dash_ends_are_refused() {
        for name in [
            "services",
            "sthree-a",
            "amzn-s3-demo-bucket",
            "a-s3alias",
            "a--ol-s3",
            "a.mrap",
            "a--x-s3",
            "a--table-s3",
            "foo.-bar",
            "foo-.bar",
        ] {
            assert_eq!(code(check_name(name)), "InvalidBucketName", "{name}");
        }
        for name in ["foo.bar-2", "x--y", "my-amzn-s3-demo-b", "s3alias"] {
            assert_eq!(code(check_name(name)), "", "{name}");
        }
    }

    #[test]
    fn a_constraint_is_this_region_another_one_or_none() {
        let there = "InvalidLocationConstraint";
        let elsewhere = "IllegalLocationConstraintException";
        for (region, constraint, expected) in [
            ("us-east-1", None, ""),
            ("us-east-1", Some("us-east-1"), there),
            ("us-east-1", Some("nowhere"), there),
            ("us-east-1", Some("eu-west-1"), elsewhere),
            ("us-east-1", Some("us-gov-west-1"), elsewhere),
            ("us-east-1", Some("EU"), elsewhere),
            ("eu-west-1", Some("eu-west-1"), ""),
            ("eu-west-1", None, elsewhere),
            ("lab", Some("lab"), ""),
            ("lab", Some("eu-1-"), there),
        ] {
            let said = code(check_location(region, constraint));
            assert_eq!(said, expected, "{constraint:?} in {region}");
        }
    }
}
