//! Deleting: one object or a thousand, a version for good or a marker in front.

use crate::Store;
use crate::access::account;
use crate::authorize::Judge;
use crate::conditions;
use crate::db::Tx;
use crate::describe::second;
use crate::error::{denied, is_ours, malformed};
use crate::lock;
use crate::policy;
use crate::rows::{self, Bucket, Version, Versioning};
use s3s::dto::*;
use s3s::{S3ErrorCode, S3Request, S3Result};
use std::sync::Arc;

impl Store {
    pub async fn delete_object(
        self: &Arc<Self>,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<DeleteObjectOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let bypass = input.bypass_governance_retention == Some(true);
        let must_exist = input.if_match.as_ref().is_some_and(ETagCondition::is_any);
        let wanted = ObjectIdentifier {
            key: input.key,
            version_id: input.version_id,
            e_tag: input
                .if_match
                .and_then(|condition| condition.as_etag().cloned()),
            last_modified_time: input.if_match_last_modified_time,
            size: input.if_match_size,
        };
        let deleted = self
            .db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &input.bucket, &account)?;
                let found = target(tx, &bucket, &wanted)?;
                delete(tx, &bucket, &wanted, found, bypass, must_exist)
            })
            .await?;
        self.after_write();
        Ok(DeleteObjectOutput {
            delete_marker: deleted.delete_marker,
            version_id: deleted.delete_marker_version_id.or(deleted.version_id),
            ..Default::default()
        })
    }

    pub async fn delete_objects(
        self: &Arc<Self>,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<DeleteObjectsOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let judge = request.extensions.get::<Judge>().cloned();
        let bypass = input.bypass_governance_retention == Some(true);
        let quiet = input.delete.quiet == Some(true);
        let wanted = input.delete.objects;
        let no_key = wanted.iter().any(|one| one.key.is_empty());
        if wanted.is_empty() || wanted.len() > 1000 || no_key {
            return Err(malformed());
        }
        let outcomes = self
            .db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &input.bucket, &account)?;
                let mut outcomes = Vec::new();
                for one in wanted {
                    let outcome = tx.apart(|| {
                        let found = target(tx, &bucket, &one)?;
                        let bypass = match &judge {
                            None => bypass,
                            Some(judge) => {
                                let id = one.version_id.as_deref();
                                let judge = judge.of_one(&bucket, found.as_ref(), id);
                                judged(&judge, &one)?;
                                bypass && judge.may("s3:BypassGovernanceRetention", &one.key)
                            }
                        };
                        delete(tx, &bucket, &one, found, bypass, false)
                    });
                    // Each has its own fate, but for what is wrong with the store itself.
                    if outcome.as_ref().is_err_and(is_ours) {
                        return Err(outcome.err().unwrap_or_else(denied));
                    }
                    outcomes.push((one, outcome));
                }
                Ok(outcomes)
            })
            .await?;
        self.after_write();
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for (one, outcome) in outcomes {
            match outcome {
                Ok(done) => deleted.push(done),
                Err(error) => errors.push(s3s::dto::Error {
                    code: Some(match error.code() {
                        // Its own code in this list alone.
                        S3ErrorCode::InvalidArgument => "NoSuchVersion".to_owned(),
                        code => code.as_str().to_owned(),
                    }),
                    key: Some(one.key),
                    message: error.message().map(ToOwned::to_owned),
                    version_id: one.version_id,
                }),
            }
        }
        Ok(DeleteObjectsOutput {
            deleted: Some(if quiet { Vec::new() } else { deleted }),
            errors: Some(errors),
            ..Default::default()
        })
    }
}

/// What is asked to be deleted, if it is there.
fn target(tx: &Tx<'_>, bucket: &Bucket, wanted: &ObjectIdentifier) -> S3Result<Option<Version>> {
    match &wanted.version_id {
        None => rows::current(tx.connection, bucket.id, &wanted.key),
        Some(id) => {
            rows::check_version(id)?;
            rows::version(tx.connection, bucket.id, &wanted.key, id)
        }
    }
}

/// Whether it is to be deleted only as it is known.
fn compares(wanted: &ObjectIdentifier) -> bool {
    wanted.e_tag.is_some() || wanted.size.is_some() || wanted.last_modified_time.is_some()
}

/// Whether one of many may be deleted; to compare is to read, as [`crate::authorize`] has it for one alone.
fn judged(judge: &Judge, wanted: &ObjectIdentifier) -> S3Result<()> {
    let action = policy::action("DeleteObjects", wanted.version_id.is_some());
    let may = |action: &str| judge.may(action, &wanted.key);
    match may(&action) && (!compares(wanted) || may("s3:GetObject")) {
        true => Ok(()),
        false => Err(denied()),
    }
}

/// Deletes one object as DeleteObject does: a version for good, else what versioning says.
fn delete(
    tx: &Tx<'_>,
    bucket: &Bucket,
    wanted: &ObjectIdentifier,
    target: Option<Version>,
    bypass: bool,
    must_exist: bool,
) -> S3Result<DeletedObject> {
    let key = &wanted.key;
    if must_exist || compares(wanted) {
        let found = target
            .as_ref()
            .filter(|version| !version.marker)
            .ok_or_else(rows::no_such_key)?;
        let tag = wanted
            .e_tag
            .as_ref()
            .is_none_or(|tag| tag.value() == found.etag);
        let size = wanted.size.is_none_or(|size| size == found.size as i64);
        let modified = second(found.modified_ms);
        let time = wanted
            .last_modified_time
            .as_ref()
            .is_none_or(|time| *time == modified);
        let held = [
            (tag, "If-Match"),
            (size, "x-amz-if-match-size"),
            (time, "x-amz-if-match-last-modified-time"),
        ];
        if let Some((_, name)) = held.iter().find(|(holds, _)| !holds) {
            return Err(conditions::failed(name));
        }
    }
    let mut deleted = DeletedObject {
        key: Some(key.clone()),
        version_id: wanted.version_id.clone(),
        ..Default::default()
    };
    if wanted.version_id.is_some() {
        // A version that isn't there is as good as deleted.
        if let Some(version) = target {
            lock::removable(&version, bypass, tx.now_ms)?;
            bucket.remove(tx, &version)?;
            deleted.delete_marker = version.marker.then_some(true);
            deleted.delete_marker_version_id = version.marker.then_some(version.id);
        }
        return Ok(deleted);
    }
    match (bucket.config.versioning, target) {
        (None, None) => {}
        (None, Some(version)) => bucket.remove(tx, &version)?,
        (Some(Versioning::Enabled | Versioning::Suspended), _) => {
            let marker = bucket.mark_deleted(tx, key)?;
            deleted.delete_marker = Some(true);
            deleted.delete_marker_version_id = Some(marker.id);
        }
    }
    Ok(deleted)
}
