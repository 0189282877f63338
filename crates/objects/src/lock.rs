//! Object lock: retention and legal hold keep a version from being removed (AWS, "Locking objects
//! with Object Lock").

use crate::Store;
use crate::access::account;
use crate::authorize::Who;
use crate::describe::millis;
use crate::describe::stamp;
use crate::error::{custom, malformed, no_document, not_allowed};
use crate::rows::{self, About, Bucket, Version, Versioning};
use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// Until when a version stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    #[serde(rename = "m")]
    pub mode: Mode,
    #[serde(rename = "u")]
    pub until_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Who says that he means to may end it.
    Governance,
    /// Nobody may.
    Compliance,
}

impl Mode {
    fn parse(text: &str) -> S3Result<Self> {
        match text {
            ObjectLockMode::GOVERNANCE => Ok(Mode::Governance),
            ObjectLockMode::COMPLIANCE => Ok(Mode::Compliance),
            _ => Err(malformed()),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Mode::Governance => ObjectLockMode::GOVERNANCE,
            Mode::Compliance => ObjectLockMode::COMPLIANCE,
        }
    }
}

fn missing() -> S3Error {
    s3_error!(
        InvalidRequest,
        "Bucket is missing Object Lock Configuration"
    )
}

fn protected() -> S3Error {
    s3_error!(
        AccessDenied,
        "Access Denied because object protected by object lock."
    )
}

fn no_digest(what: &str) -> S3Error {
    S3Error::with_message(
        S3ErrorCode::InvalidRequest,
        format!(
            "Content-MD5 OR x-amz-checksum- HTTP header is required for Put {what} requests with Object Lock parameters"
        ),
    )
}

/// The same of a part of what will be locked.
pub fn part_wants_digest(about: &About, is_there: bool) -> S3Result<()> {
    match about.retention.is_some() || about.hold == Some(true) {
        true if !is_there => Err(no_digest("Part")),
        _ => Ok(()),
    }
}

/// What a request that makes an object says of its lock.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    mode: Option<ObjectLockMode>,
    until: Option<Timestamp>,
    hold: Option<ObjectLockLegalHoldStatus>,
}

impl Wish {
    pub fn of(
        mode: Option<ObjectLockMode>,
        until: Option<Timestamp>,
        hold: Option<ObjectLockLegalHoldStatus>,
    ) -> Self {
        Self { mode, until, hold }
    }

    fn is_said(&self) -> bool {
        self.mode.is_some() || self.until.is_some() || self.hold.is_some()
    }

    /// Bytes that nobody may replace for years must be those that were meant (AWS, "PutObject").
    pub fn wants_digest(&self, bucket: &Bucket, is_there: bool) -> S3Result<()> {
        let locks = |lock| default(lock, 0).is_some();
        match self.is_said() || bucket.config.lock.as_ref().is_some_and(locks) {
            true if !is_there => Err(no_digest("Object")),
            _ => Ok(()),
        }
    }

    /// Puts it on a new version, or the bucket's default.
    pub fn apply(&self, bucket: &Bucket, about: &mut About, now_ms: i64) -> S3Result<()> {
        about.retention = None;
        about.hold = None;
        let Some(lock) = &bucket.config.lock else {
            return if self.is_said() {
                Err(missing())
            } else {
                Ok(())
            };
        };
        about.retention = match (&self.mode, &self.until) {
            (None, None) => default(lock, now_ms),
            (Some(mode), Some(until)) => {
                let mode = Mode::parse(mode.as_str())
                    .map_err(|_| s3_error!(InvalidArgument, "Unknown wormMode directive."))?;
                Some(in_future(mode, millis(until), now_ms)?)
            }
            _ => {
                return Err(s3_error!(
                    InvalidArgument,
                    "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
                ));
            }
        };
        about.hold = match self.hold.as_ref().map(|hold| hold.as_str()) {
            None => None,
            Some(ObjectLockLegalHoldStatus::OFF) => Some(false),
            Some(ObjectLockLegalHoldStatus::ON) => Some(true),
            Some(_) => {
                return Err(s3_error!(
                    InvalidArgument,
                    "Legal Hold must be either of 'ON' or 'OFF'"
                ));
            }
        };
        Ok(())
    }
}

fn in_future(mode: Mode, until_ms: i64, now_ms: i64) -> S3Result<Retention> {
    match until_ms > now_ms {
        true => Ok(Retention { mode, until_ms }),
        false => Err(s3_error!(
            InvalidArgument,
            "The retain until date must be in the future!"
        )),
    }
}

fn default(lock: &ObjectLockConfiguration, now_ms: i64) -> Option<Retention> {
    let default = lock.rule.as_ref()?.default_retention.as_ref()?;
    let mode = Mode::parse(default.mode.as_ref()?.as_str()).ok()?;
    let days = match (default.days, default.years) {
        (Some(days), _) => i64::from(days),
        (None, Some(years)) => i64::from(years) * 365,
        (None, None) => return None,
    };
    let until_ms = now_ms + days * DAY_MS;
    Some(Retention { mode, until_ms })
}

/// Whether a version may be removed; `bypass` is what its caller said of governance.
pub fn removable(version: &Version, bypass: bool, now_ms: i64) -> S3Result<()> {
    if version.about.hold == Some(true) {
        return Err(protected());
    }
    match version.about.retention {
        Some(Retention { mode, until_ms }) if until_ms > now_ms => match mode {
            Mode::Governance if bypass => Ok(()),
            Mode::Governance | Mode::Compliance => Err(protected()),
        },
        _ => Ok(()),
    }
}

/// Whether a retention may be changed into another one.
fn changeable(
    before: Option<Retention>,
    after: Option<Retention>,
    bypass: bool,
    now_ms: i64,
) -> S3Result<()> {
    let Some(before) = before.filter(|before| before.until_ms > now_ms) else {
        return Ok(());
    };
    let longer =
        after.is_some_and(|after| after.until_ms >= before.until_ms && after.mode == before.mode);
    match before.mode {
        _ if longer => Ok(()),
        Mode::Governance if bypass => Ok(()),
        Mode::Governance | Mode::Compliance => Err(protected()),
    }
}

/// The members of an answer.
pub fn shown(
    about: &About,
) -> (
    Option<ObjectLockMode>,
    Option<Timestamp>,
    Option<ObjectLockLegalHoldStatus>,
) {
    let retention = about.retention;
    (
        retention.map(|it| ObjectLockMode::from_static(it.mode.name())),
        retention.map(|it| stamp(it.until_ms)),
        about.hold.map(hold_status),
    )
}

fn hold_status(hold: bool) -> ObjectLockLegalHoldStatus {
    ObjectLockLegalHoldStatus::from_static(match hold {
        true => ObjectLockLegalHoldStatus::ON,
        false => ObjectLockLegalHoldStatus::OFF,
    })
}

fn judged(lock: &ObjectLockConfiguration) -> S3Result<()> {
    let enabled = lock.object_lock_enabled.as_ref().map(|it| it.as_str());
    if enabled != Some(ObjectLockEnabled::ENABLED) {
        return Err(malformed());
    }
    let Some(rule) = &lock.rule else {
        return Ok(());
    };
    let default = rule.default_retention.as_ref().ok_or_else(malformed)?;
    Mode::parse(default.mode.as_ref().ok_or_else(malformed)?.as_str())?;
    let period = match (default.days, default.years) {
        (Some(period), None) | (None, Some(period)) => period,
        _ => return Err(malformed()),
    };
    let most = if default.days.is_some() { 36_500 } else { 100 };
    if period > most {
        return Err(custom(
            "InvalidRetentionPeriod",
            StatusCode::BAD_REQUEST,
            "Default retention period is too large: 36500 days or 100 years at most.",
        ));
    }
    if period <= 0 {
        return Err(custom(
            "InvalidRetentionPeriod",
            StatusCode::BAD_REQUEST,
            "Default retention period must be a positive integer value.",
        ));
    }
    Ok(())
}

impl Store {
    pub async fn put_object_lock_configuration(
        self: &Arc<Self>,
        request: S3Request<PutObjectLockConfigurationInput>,
    ) -> S3Result<PutObjectLockConfigurationOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let lock = input.object_lock_configuration.ok_or_else(no_document)?;
        judged(&lock)?;
        self.configure(account, input.bucket, move |_, config| {
            if config.versioning != Some(Versioning::Enabled) {
                return Err(s3_error!(
                    InvalidBucketState,
                    "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration"
                ));
            }
            config.lock = Some(lock);
            Ok(())
        })
        .await?;
        Ok(PutObjectLockConfigurationOutput::default())
    }

    pub async fn get_object_lock_configuration(
        self: &Arc<Self>,
        request: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<GetObjectLockConfigurationOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        match bucket.config.lock {
            Some(lock) => Ok(GetObjectLockConfigurationOutput {
                object_lock_configuration: Some(lock),
            }),
            None => Err(s3_error!(
                ObjectLockConfigurationNotFoundError,
                "Object Lock configuration does not exist for this bucket"
            )),
        }
    }

    pub async fn put_object_retention(
        self: &Arc<Self>,
        request: S3Request<PutObjectRetentionInput>,
    ) -> S3Result<PutObjectRetentionOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let bypass = input.bypass_governance_retention == Some(true);
        let wanted = input.retention.ok_or_else(malformed)?;
        let wanted = match (wanted.mode, wanted.retain_until_date) {
            (None, None) => None,
            (Some(mode), Some(until)) => Some((Mode::parse(mode.as_str())?, millis(&until))),
            _ => return Err(malformed()),
        };
        let act = move |about: &mut About, now_ms: i64| {
            let after = wanted
                .map(|(mode, until_ms)| in_future(mode, until_ms, now_ms))
                .transpose()?;
            changeable(about.retention, after, bypass, now_ms)?;
            about.retention = after;
            Ok(())
        };
        self.relock(who, input.bucket, input.key, input.version_id, act)
            .await?;
        Ok(PutObjectRetentionOutput::default())
    }

    pub async fn put_object_legal_hold(
        self: &Arc<Self>,
        request: S3Request<PutObjectLegalHoldInput>,
    ) -> S3Result<PutObjectLegalHoldOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let status = input
            .legal_hold
            .and_then(|hold| hold.status)
            .ok_or_else(malformed)?;
        let hold = match status.as_str() {
            ObjectLockLegalHoldStatus::ON => true,
            ObjectLockLegalHoldStatus::OFF => false,
            _ => return Err(malformed()),
        };
        let act = move |about: &mut About, _| {
            about.hold = Some(hold);
            Ok(())
        };
        self.relock(who, input.bucket, input.key, input.version_id, act)
            .await?;
        Ok(PutObjectLegalHoldOutput::default())
    }

    async fn relock(
        &self,
        who: Who,
        name: String,
        key: String,
        id: Option<String>,
        change: impl FnOnce(&mut About, i64) -> S3Result<()> + Send + 'static,
    ) -> S3Result<()> {
        self.db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &name, &who.account)?;
                if bucket.config.lock.is_none() {
                    return Err(missing());
                }
                let version = rows::named(tx.connection, bucket.id, &key, id.as_deref())?;
                if version.marker {
                    return Err(not_allowed());
                }
                who.may(&bucket, &version)?;
                let mut about = version.about.clone();
                change(&mut about, tx.now_ms)?;
                bucket.describe(tx, &version, &about)
            })
            .await
    }

    pub async fn get_object_retention(
        self: &Arc<Self>,
        request: S3Request<GetObjectRetentionInput>,
    ) -> S3Result<GetObjectRetentionOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let about = self
            .locked(who, input.bucket, input.key, input.version_id)
            .await?;
        let retention = about.retention.ok_or_else(unset)?;
        Ok(GetObjectRetentionOutput {
            retention: Some(ObjectLockRetention {
                mode: Some(ObjectLockRetentionMode::from_static(retention.mode.name())),
                retain_until_date: Some(stamp(retention.until_ms)),
            }),
        })
    }

    pub async fn get_object_legal_hold(
        self: &Arc<Self>,
        request: S3Request<GetObjectLegalHoldInput>,
    ) -> S3Result<GetObjectLegalHoldOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let about = self
            .locked(who, input.bucket, input.key, input.version_id)
            .await?;
        let hold = about.hold.ok_or_else(unset)?;
        Ok(GetObjectLegalHoldOutput {
            legal_hold: Some(ObjectLockLegalHold {
                status: Some(hold_status(hold)),
            }),
        })
    }

    async fn locked(
        self: &Arc<Self>,
        who: Who,
        name: String,
        key: String,
        id: Option<String>,
    ) -> S3Result<About> {
        self.db
            .read(move |db| {
                let bucket = rows::bucket(db, &name, &who.account)?;
                let version = rows::named(db, bucket.id, &key, id.as_deref())?;
                who.may(&bucket, &version)?;
                match (&bucket.config.lock, version.marker) {
                    (None, _) => Err(missing()),
                    (Some(_), true) => Err(rows::no_such_key()),
                    (Some(_), false) => Ok(version.about),
                }
            })
            .await
    }
}

fn unset() -> S3Error {
    custom(
        "NoSuchObjectLockConfiguration",
        StatusCode::NOT_FOUND,
        "The specified object does not have a ObjectLock configuration",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_governance_can_be_shortened_and_only_on_purpose() {
        let held = |mode, until_ms| Some(Retention { mode, until_ms });
        let (soft, hard) = (Mode::Governance, Mode::Compliance);
        for (before, after, bypass, fine) in [
            (held(soft, 50), held(soft, 60), false, true),
            (held(soft, 50), held(soft, 40), false, false),
            (held(soft, 50), held(soft, 40), true, true),
            (held(soft, 50), None, true, true),
            (held(soft, 50), held(hard, 60), false, false),
            (held(soft, 50), held(hard, 60), true, true),
            (held(hard, 50), held(hard, 60), false, true),
            (held(hard, 50), held(hard, 40), true, false),
            (held(hard, 50), held(soft, 60), true, false),
            (held(hard, 50), None, true, false),
            (held(hard, 5), None, false, true),
            (None, held(hard, 20), false, true),
        ] {
            let found = changeable(before, after, bypass, 10).is_ok();
            assert_eq!(found, fine, "{before:?} {after:?} {bypass}");
        }
    }
}
