//! Lifecycle rules: judged when they are put, and which is due for what, decided without a store (AWS,
//! "Managing the lifecycle of objects"). [`crate::expiring`] carries them out.

use crate::Store;
use crate::access::account;
use crate::describe::millis;
use crate::error::{custom, malformed};
use crate::rows::{Bucket, Version};
use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::collections::BTreeMap;
use std::sync::Arc;

const DAY_MS: i64 = 24 * 3600 * 1000;
const MOST_RULES: usize = 1000;

/// An object's version, as rules see it.
pub struct Seen<'a> {
    pub key: &'a str,
    pub size: u64,
    pub tags: &'a BTreeMap<String, String>,
    /// The storage class, where it isn't STANDARD.
    pub class: Option<&'a str>,
    pub modified_ms: i64,
    pub marker: bool,
    /// It is the key's only version.
    pub alone: bool,
    /// Since when it isn't current, and how many newer noncurrent ones there are.
    pub noncurrent: Option<(i64, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The current version: deleted, or hidden where the bucket has versions.
    Expire,
    /// This version, for good.
    Remove,
    /// Into another storage class, which is only a name here.
    Move(&'static str),
}

/// Storage classes in the order in which objects may move (AWS, "Transitioning objects using Amazon S3
/// Lifecycle").
const CLASSES: [&str; 4] = [
    "STANDARD_IA",
    "INTELLIGENT_TIERING",
    "ONEZONE_IA",
    "GLACIER_IR",
];
/// Smaller objects don't move, unless a rule says something of sizes.
const LEAST_MOVED: u64 = 128 << 10;

/// How far down an object is: 0 where it begins.
fn rank(class: Option<&str>) -> usize {
    let place = class.and_then(|class| CLASSES.iter().position(|known| *known == class));
    place.map_or(0, |place| place + 1)
}

/// What is due for a version, by the first rule that says so.
pub fn due(rules: &[LifecycleRule], seen: &Seen<'_>, now_ms: i64) -> Option<Due> {
    let active = rules
        .iter()
        .filter(|rule| rule.status.as_str() == ExpirationStatus::ENABLED);
    let fitting: Vec<&LifecycleRule> = active
        .filter(|rule| matches(rule, seen.key, seen.size, seen.tags))
        .collect();
    let ends = fitting.iter().find_map(|rule| due_by(rule, seen, now_ms));
    let moves = || {
        let lowest = fitting
            .iter()
            .map(|rule| moved_by(rule, seen, now_ms))
            .max()?;
        (lowest > rank(seen.class)).then(|| Due::Move(CLASSES[lowest - 1]))
    };
    ends.or_else(moves)
}

/// How far down a rule has moved a version by now.
fn moved_by(rule: &LifecycleRule, seen: &Seen<'_>, now_ms: i64) -> usize {
    if seen.marker || (seen.size < LEAST_MOVED && !is_about_sizes(rule)) {
        return 0;
    }
    let class = |class: &Option<TransitionStorageClass>| rank(class.as_ref().map(|it| it.as_str()));
    let Some((since_ms, newer)) = seen.noncurrent else {
        let transitions = rule.transitions.iter().flatten();
        let past = transitions.filter(|transition| match (&transition.date, transition.days) {
            (Some(date), _) => now_ms >= millis(date),
            (None, days) => now_ms >= after_days(seen.modified_ms, days.unwrap_or(0)),
        });
        return past
            .map(|transition| class(&transition.storage_class))
            .max()
            .unwrap_or(0);
    };
    let transitions = rule.noncurrent_version_transitions.iter().flatten();
    let past = transitions.filter(|transition| {
        newer >= transition.newer_noncurrent_versions.unwrap_or(0) as usize
            && now_ms >= after_days(since_ms, transition.noncurrent_days.unwrap_or(0))
    });
    past.map(|transition| class(&transition.storage_class))
        .max()
        .unwrap_or(0)
}

fn is_about_sizes(rule: &LifecycleRule) -> bool {
    rule.filter.as_ref().is_some_and(|filter| {
        let and = filter.and.as_ref();
        filter.object_size_greater_than.is_some()
            || filter.object_size_less_than.is_some()
            || and.is_some_and(|and| {
                and.object_size_greater_than.is_some() || and.object_size_less_than.is_some()
            })
    })
}

fn due_by(rule: &LifecycleRule, seen: &Seen<'_>, now_ms: i64) -> Option<Due> {
    if let Some((since_ms, newer)) = seen.noncurrent {
        let expiration = rule.noncurrent_version_expiration.as_ref()?;
        let kept = expiration.newer_noncurrent_versions.unwrap_or(0) as usize;
        let old = now_ms >= after_days(since_ms, expiration.noncurrent_days?);
        return (old && newer >= kept).then_some(Due::Remove);
    }
    let expiration = rule.expiration.as_ref()?;
    if seen.marker {
        let asked = expiration.expired_object_delete_marker == Some(true)
            || expires_ms(rule, seen.modified_ms).is_some_and(|at| now_ms >= at);
        return (seen.alone && asked).then_some(Due::Remove);
    }
    let at_ms = expires_ms(rule, seen.modified_ms)?;
    (now_ms >= at_ms).then_some(Due::Expire)
}

/// When a rule expires a current object that was made then.
fn expires_ms(rule: &LifecycleRule, modified_ms: i64) -> Option<i64> {
    let expiration = rule.expiration.as_ref()?;
    match (&expiration.date, expiration.days) {
        (Some(date), _) => Some(millis(date)),
        (None, Some(days)) => Some(after_days(modified_ms, days)),
        (None, None) => None,
    }
}

/// So many days later, at the midnight that follows.
fn after_days(ms: i64, days: i32) -> i64 {
    let then = ms + i64::from(days) * DAY_MS;
    (then + DAY_MS - 1).div_euclid(DAY_MS) * DAY_MS
}

fn matches(rule: &LifecycleRule, key: &str, size: u64, tags: &BTreeMap<String, String>) -> bool {
    let prefix =
        |prefix: &Option<String>| prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix));
    let tag = |tag: &Tag| {
        let (name, value) = (
            tag.key.as_deref().unwrap_or_default(),
            tag.value.as_deref().unwrap_or_default(),
        );
        tags.get(name).is_some_and(|found| found == value)
    };
    let above = |least: Option<i64>| least.is_none_or(|least| size as i64 > least);
    let below = |most: Option<i64>| most.is_none_or(|most| (size as i64) < most);
    if !prefix(&rule.prefix) {
        return false;
    }
    let Some(filter) = &rule.filter else {
        return true;
    };
    let both = filter.and.as_ref().is_none_or(|and| {
        prefix(&and.prefix)
            && and.tags.iter().flatten().all(tag)
            && above(and.object_size_greater_than)
            && below(and.object_size_less_than)
    });
    both && prefix(&filter.prefix)
        && filter.tag.as_ref().is_none_or(tag)
        && above(filter.object_size_greater_than)
        && below(filter.object_size_less_than)
}

/// The `x-amz-expiration` of an object: when it will be gone, and by which rule.
pub fn expiration(bucket: &Bucket, version: &Version) -> Option<String> {
    let rules = &bucket.config.lifecycle.as_ref()?.rules;
    if !version.current {
        return None;
    }
    let key = String::from_utf8_lossy(&version.key);
    let active = rules
        .iter()
        .filter(|rule| rule.status.as_str() == ExpirationStatus::ENABLED);
    let soonest = active
        .filter(|rule| matches(rule, &key, version.size, &version.about.tags))
        .filter_map(|rule| Some((expires_ms(rule, version.modified_ms)?, rule)))
        .min_by_key(|(at, _)| *at)?;
    let mut date = Vec::new();
    crate::describe::stamp(soonest.0)
        .format(TimestampFormat::HttpDate, &mut date)
        .ok()?;
    let mut id = String::new();
    let named = soonest.1.id.as_deref().unwrap_or_default();
    boira_api::form::percent_encode(&mut id, named.as_bytes(), b"");
    Some(format!(
        "expiry-date=\"{}\", rule-id=\"{id}\"",
        String::from_utf8_lossy(&date)
    ))
}

fn invalid(message: &'static str) -> S3Error {
    custom("InvalidArgument", StatusCode::BAD_REQUEST, message)
}

/// Rules that could be carried out; ones without an id get one.
fn judged(rules: &mut [LifecycleRule]) -> S3Result<()> {
    if rules.is_empty() || rules.len() > MOST_RULES {
        return Err(malformed());
    }
    let mut ids = std::collections::BTreeSet::new();
    for rule in rules {
        let id = rule
            .id
            .get_or_insert_with(|| hex::encode(rand::random::<[u8; 16]>()));
        if id.len() > 255 {
            return Err(invalid("ID length should not exceed allowed limit of 255"));
        }
        if !ids.insert(id.clone()) {
            return Err(invalid(
                "Rule ID must be unique. Found same ID for more than one rule",
            ));
        }
        judge(rule)?;
    }
    Ok(())
}

fn judge(rule: &LifecycleRule) -> S3Result<()> {
    if ![ExpirationStatus::ENABLED, ExpirationStatus::DISABLED].contains(&rule.status.as_str())
        || rule.prefix.is_some() == rule.filter.is_some()
    {
        return Err(malformed());
    }
    if let Some(filter) = &rule.filter {
        let predicates = [
            filter.prefix.is_some(),
            filter.tag.is_some(),
            filter.object_size_greater_than.is_some(),
            filter.object_size_less_than.is_some(),
            filter.and.is_some(),
        ];
        // Several stand in `And`.
        if predicates.iter().filter(|there| **there).count() > 1 {
            return Err(malformed());
        }
        judge_and(filter)?;
    }
    for transition in rule.transitions.iter().flatten() {
        judge_transition(transition, rule.expiration.as_ref())?;
    }
    for transition in rule.noncurrent_version_transitions.iter().flatten() {
        judge_class(
            transition.storage_class.as_ref(),
            transition.noncurrent_days,
        )?;
        transition.noncurrent_days.ok_or_else(malformed)?;
    }
    let transitions = rule.transitions.iter().flatten();
    judge_order(transitions.map(|it| {
        let day = it.date.as_ref().map(|date| millis(date) / DAY_MS);
        (
            it.storage_class.as_ref(),
            day.unwrap_or(it.days.unwrap_or(0).into()),
        )
    }))?;
    let transitions = rule.noncurrent_version_transitions.iter().flatten();
    judge_order(transitions.map(|it| {
        (
            it.storage_class.as_ref(),
            it.noncurrent_days.unwrap_or(0).into(),
        )
    }))?;
    let moves = rule.transitions.iter().flatten().count()
        + rule.noncurrent_version_transitions.iter().flatten().count();
    let (expiration, noncurrent) = (&rule.expiration, &rule.noncurrent_version_expiration);
    let abort = &rule.abort_incomplete_multipart_upload;
    if expiration.is_none() && noncurrent.is_none() && abort.is_none() && moves == 0 {
        return Err(custom(
            "InvalidRequest",
            StatusCode::BAD_REQUEST,
            "At least one action needs to be specified in a rule",
        ));
    }
    if let Some(expiration) = expiration {
        let wishes = [
            expiration.days.is_some(),
            expiration.date.is_some(),
            expiration.expired_object_delete_marker.is_some(),
        ];
        if wishes.iter().filter(|wish| **wish).count() != 1 {
            return Err(malformed());
        }
        if expiration.expired_object_delete_marker.is_some() && is_about_tags(rule) {
            return Err(custom(
                "InvalidRequest",
                StatusCode::BAD_REQUEST,
                "ExpiredObjectDeleteMarker cannot be specified with Tags.",
            ));
        }
        if expiration.days.is_some_and(|days| days <= 0) {
            return Err(invalid(
                "'Days' for Expiration action must be a positive integer",
            ));
        }
        if expiration
            .date
            .as_ref()
            .is_some_and(|date| millis(date) % DAY_MS != 0)
        {
            return Err(invalid("'Date' must be at midnight GMT"));
        }
    }
    if let Some(noncurrent) = noncurrent {
        if noncurrent.noncurrent_days.is_none() {
            return Err(malformed());
        }
        if noncurrent.noncurrent_days.is_some_and(|days| days <= 0) {
            return Err(invalid(
                "'NoncurrentDays' for NoncurrentVersionExpiration action must be a positive integer",
            ));
        }
        if noncurrent
            .newer_noncurrent_versions
            .is_some_and(|kept| !(1..=100).contains(&kept))
        {
            return Err(invalid(
                "'NewerNoncurrentVersions' must be between 1 and 100",
            ));
        }
    }
    if let Some(abort) = abort {
        if abort.days_after_initiation.is_none_or(|days| days <= 0) {
            return Err(invalid(
                "'DaysAfterInitiation' for AbortIncompleteMultipartUpload action must be a positive integer",
            ));
        }
        if is_about_tags(rule) || is_about_sizes(rule) {
            return Err(custom(
                "InvalidRequest",
                StatusCode::BAD_REQUEST,
                "AbortIncompleteMultipartUpload cannot be specified with Tags or object sizes",
            ));
        }
    }
    Ok(())
}

/// What several predicates of a filter have to be to one another.
fn judge_and(filter: &LifecycleRuleFilter) -> S3Result<()> {
    let Some(and) = &filter.and else {
        return Ok(());
    };
    let tags = and.tags.iter().flatten();
    let predicates = [
        and.prefix.is_some(),
        and.object_size_greater_than.is_some(),
        and.object_size_less_than.is_some(),
    ];
    let others = predicates.iter().filter(|there| **there).count();
    if tags.clone().count() + others < 2 {
        return Err(malformed());
    }
    let mut keys: Vec<_> = tags.map(|tag| tag.key.as_deref()).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|two| two[0] == two[1]) {
        return Err(invalid("Duplicate Tag Keys are not allowed."));
    }
    let sizes = (and.object_size_greater_than, and.object_size_less_than);
    match sizes {
        (Some(least), Some(most)) if least >= most => Err(invalid(
            "'ObjectSizeLessThan' must be greater than 'ObjectSizeGreaterThan'",
        )),
        _ => Ok(()),
    }
}

fn is_about_tags(rule: &LifecycleRule) -> bool {
    rule.filter.as_ref().is_some_and(|filter| {
        let and = filter.and.as_ref();
        filter.tag.is_some() || and.is_some_and(|and| and.tags.is_some())
    })
}

fn judge_transition(
    transition: &Transition,
    expiration: Option<&LifecycleExpiration>,
) -> S3Result<()> {
    match (&transition.date, transition.days) {
        (Some(date), None) if millis(date) % DAY_MS != 0 => {
            return Err(invalid("'Date' must be at midnight GMT"));
        }
        (Some(_), None) | (None, Some(_)) => {}
        _ => return Err(malformed()),
    }
    let ends = expiration.and_then(|expiration| expiration.days);
    let dated = expiration.and_then(|expiration| expiration.date.as_ref());
    if (transition.date.is_some() && ends.is_some())
        || (transition.days.is_some() && dated.is_some())
    {
        return Err(custom(
            "InvalidRequest",
            StatusCode::BAD_REQUEST,
            "Found mixed 'Date' and 'Days' based Expiration and Transition actions in lifecycle rule",
        ));
    }
    if transition
        .days
        .zip(ends)
        .is_some_and(|(moves, ends)| moves >= ends)
    {
        return Err(invalid(
            "'Days' in the Expiration action must be greater than 'Days' in the Transition action",
        ));
    }
    judge_class(transition.storage_class.as_ref(), transition.days)
}

fn judge_class(class: Option<&TransitionStorageClass>, days: Option<i32>) -> S3Result<()> {
    let class = class.ok_or_else(malformed)?.as_str();
    if ["GLACIER", "DEEP_ARCHIVE"].contains(&class) {
        return Err(s3_error!(
            NotImplemented,
            "There is no archive here: objects can move to STANDARD_IA, INTELLIGENT_TIERING, ONEZONE_IA and GLACIER_IR, by name."
        ));
    }
    if !CLASSES.contains(&class) {
        return Err(malformed());
    }
    if days.is_some_and(|days| days < 0) {
        return Err(invalid("'Days' in Transition action must be nonnegative"));
    }
    let infrequent = ["STANDARD_IA", "ONEZONE_IA"].contains(&class);
    if infrequent && days.is_some_and(|days| days < 30) {
        return Err(S3Error::with_message(
            s3s::S3ErrorCode::InvalidArgument,
            format!(
                "'Days' in Transition action must be greater than or equal to 30 for storageClass '{class}'"
            ),
        ));
    }
    Ok(())
}

/// An object goes into each class once, and down only: classes, each with the day.
fn judge_order<'c>(
    moves: impl Iterator<Item = (Option<&'c TransitionStorageClass>, i64)>,
) -> S3Result<()> {
    let name = |class: Option<&'c TransitionStorageClass>| class.map_or("", |it| it.as_str());
    let mut moves: Vec<_> = moves.map(|(class, day)| (name(class), day)).collect();
    moves.sort_by_key(|(class, _)| rank(Some(class)));
    for two in moves.windows(2) {
        let [(upper, first), (lower, then)] = [two[0], two[1]];
        if upper == lower {
            return Err(custom(
                "InvalidRequest",
                StatusCode::BAD_REQUEST,
                "'StorageClass' must be different for 'Transition' actions in same 'Rule'",
            ));
        }
        if then <= first {
            return Err(S3Error::with_message(
                s3s::S3ErrorCode::InvalidArgument,
                format!(
                    "The Transition action for StorageClass '{lower}' must come later than that for '{upper}'"
                ),
            ));
        }
    }
    Ok(())
}

/// From which size on objects change their class, where a rule doesn't say. None does here.
const ALL_CLASSES: &str = "all_storage_classes_128K";
const BY_CLASS: &str = "varies_by_storage_class";

impl Store {
    pub async fn get_bucket_lifecycle_configuration(
        self: &Arc<Self>,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<GetBucketLifecycleConfigurationOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        match bucket.config.lifecycle {
            Some(lifecycle) => {
                let minimum = bucket.config.transition_minimum;
                let minimum = minimum.unwrap_or_else(|| ALL_CLASSES.to_owned());
                Ok(GetBucketLifecycleConfigurationOutput {
                    rules: Some(lifecycle.rules),
                    transition_default_minimum_object_size: Some(minimum.into()),
                })
            }
            None => Err(s3_error!(
                NoSuchLifecycleConfiguration,
                "The lifecycle configuration does not exist"
            )),
        }
    }

    pub async fn put_bucket_lifecycle_configuration(
        self: &Arc<Self>,
        request: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<PutBucketLifecycleConfigurationOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let mut lifecycle = input.lifecycle_configuration.ok_or_else(malformed)?;
        judged(&mut lifecycle.rules)?;
        let minimum = input.transition_default_minimum_object_size;
        let minimum = minimum.map_or(ALL_CLASSES.to_owned(), |said| said.as_str().to_owned());
        if ![ALL_CLASSES, BY_CLASS].contains(&minimum.as_str()) {
            return Err(s3_error!(
                InvalidRequest,
                "Invalid x-amz-transition-default-minimum-object-size"
            ));
        }
        let kept = minimum.clone();
        self.set(account, input.bucket, move |config| {
            config.lifecycle = Some(lifecycle);
            config.transition_minimum = (kept != ALL_CLASSES).then_some(kept);
        })
        .await?;
        Ok(PutBucketLifecycleConfigurationOutput {
            transition_default_minimum_object_size: Some(minimum.into()),
        })
    }

    pub async fn delete_bucket_lifecycle(
        self: &Arc<Self>,
        request: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<DeleteBucketLifecycleOutput> {
        let account = account(&request.extensions)?;
        self.set(account, request.input.bucket, |config| {
            config.lifecycle = None
        })
        .await?;
        Ok(DeleteBucketLifecycleOutput::default())
    }
}

/// When an upload that isn't completed is aborted, and by which rule.
pub fn abortion<'a>(
    rules: &'a [LifecycleRule],
    key: &[u8],
    initiated_ms: i64,
) -> Option<(i64, &'a LifecycleRule)> {
    let key = String::from_utf8_lossy(key);
    let at = |rule: &LifecycleRule| {
        let days = rule.abort_incomplete_multipart_upload.as_ref()?;
        Some(after_days(initiated_ms, days.days_after_initiation?))
    };
    let meant = rules.iter().filter(|rule| {
        rule.status.as_str() == ExpirationStatus::ENABLED
            && matches(rule, &key, 0, &BTreeMap::new())
    });
    meant
        .filter_map(|rule| Some((at(rule)?, rule)))
        .min_by_key(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn days(days: i32) -> Option<LifecycleExpiration> {
        Some(LifecycleExpiration {
            days: Some(days),
            ..Default::default()
        })
    }

    #[test]
    fn expiry_is_at_the_midnight_after_so_many_days() {
        let tags = BTreeMap::new();
        let rules = [LifecycleRule {
            expiration: days(2),
            ..rule()
        }];
        let made = |modified_ms| Seen {
            key: "k",
            size: 1,
            tags: &tags,
            class: None,
            modified_ms,
            marker: false,
            alone: true,
            noncurrent: None,
        };
        let noon = DAY_MS / 2;
        assert_eq!(due(&rules, &made(noon), 3 * DAY_MS - 1), None);
        assert_eq!(due(&rules, &made(noon), 3 * DAY_MS), Some(Due::Expire));
        let off = [LifecycleRule {
            status: ExpirationStatus::from_static("Disabled"),
            ..rules[0].clone()
        }];
        assert_eq!(due(&off, &made(noon), 30 * DAY_MS), None);
    }

    fn moves(steps: &[(&str, i32)]) -> LifecycleRule {
        let step = |(class, days): &(&str, i32)| Transition {
            days: Some(*days),
            date: None,
            storage_class: Some(TransitionStorageClass::from((*class).to_owned())),
        };
        LifecycleRule {
            transitions: Some(steps.iter().map(step).collect()),
            ..rule()
        }
    }

    #[test]
    fn objects_move_down_and_never_up() {
        let tags = BTreeMap::new();
        let rules = [moves(&[("STANDARD_IA", 30), ("GLACIER_IR", 90)])];
        let seen = |size, class| Seen {
            key: "k",
            size,
            tags: &tags,
            class,
            modified_ms: 0,
            marker: false,
            alone: true,
            noncurrent: None,
        };
        let large = LEAST_MOVED;
        assert_eq!(due(&rules, &seen(large, None), 29 * DAY_MS), None);
        let moved = |to| Some(Due::Move(to));
        assert_eq!(
            due(&rules, &seen(large, None), 30 * DAY_MS),
            moved("STANDARD_IA")
        );
        assert_eq!(due(&rules, &seen(large - 1, None), 30 * DAY_MS), None);
        assert_eq!(
            due(&rules, &seen(large, Some("STANDARD_IA")), 31 * DAY_MS),
            None
        );
        assert_eq!(
            due(&rules, &seen(large, Some("ONEZONE_IA")), 31 * DAY_MS),
            None
        );
        assert_eq!(
            due(&rules, &seen(large, None), 90 * DAY_MS),
            moved("GLACIER_IR")
        );
    }

    #[test]
    fn noncurrent_versions_and_lone_markers_go() {
        let tags = BTreeMap::new();
        let seen = |noncurrent, marker, alone| Seen {
            key: "k",
            size: 1,
            tags: &tags,
            class: None,
            modified_ms: 0,
            marker,
            alone,
            noncurrent,
        };
        let old = LifecycleRule {
            noncurrent_version_expiration: Some(NoncurrentVersionExpiration {
                noncurrent_days: Some(1),
                newer_noncurrent_versions: Some(2),
            }),
            ..rule()
        };
        let rules = [old];
        assert_eq!(
            due(&rules, &seen(Some((0, 1)), false, false), 9 * DAY_MS),
            None
        );
        assert_eq!(
            due(&rules, &seen(Some((0, 2)), false, false), 9 * DAY_MS),
            Some(Due::Remove)
        );
        assert_eq!(due(&rules, &seen(None, false, true), 9 * DAY_MS), None);
        let marker = LifecycleExpiration {
            expired_object_delete_marker: Some(true),
            ..Default::default()
        };
        let rules = [LifecycleRule {
            expiration: Some(marker),
            ..rule()
        }];
        assert_eq!(
            due(&rules, &seen(None, true, true), DAY_MS),
            Some(Due::Remove)
        );
        assert_eq!(due(&rules, &seen(None, true, false), DAY_MS), None);
        assert_eq!(due(&rules, &seen(None, false, true), DAY_MS), None);
    }

    #[test]
    fn filters() {
        let tags = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let tag = |value: &str| Tag {
            key: Some("a".into()),
            value: Some(value.into()),
        };
        let filtered = |filter| LifecycleRule {
            filter: Some(filter),
            ..rule()
        };
        let fits = |filter| matches(&filtered(filter), "logs/x", 100, &tags);
        assert!(fits(LifecycleRuleFilter {
            prefix: Some("logs/".into()),
            ..Default::default()
        }));
        assert!(!fits(LifecycleRuleFilter {
            prefix: Some("log/".into()),
            ..Default::default()
        }));
        assert!(fits(LifecycleRuleFilter {
            tag: Some(tag("1")),
            ..Default::default()
        }));
        assert!(!fits(LifecycleRuleFilter {
            tag: Some(tag("2")),
            ..Default::default()
        }));
        assert!(!fits(LifecycleRuleFilter {
            object_size_greater_than: Some(100),
            ..Default::default()
        }));
        let and = LifecycleRuleAndOperator {
            prefix: Some("logs/".into()),
            tags: Some(vec![tag("1")]),
            object_size_less_than: Some(101),
            ..Default::default()
        };
        assert!(fits(LifecycleRuleFilter {
            and: Some(and),
            ..Default::default()
        }));
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        let refused =
            |rule: LifecycleRule| judged(&mut [rule]).unwrap_err().code().as_str().to_owned();
        assert_eq!(refused(rule()), "InvalidRequest");
        assert_eq!(
            refused(LifecycleRule {
                expiration: days(0),
                ..rule()
            }),
            "InvalidArgument"
        );
        assert_eq!(
            refused(LifecycleRule {
                filter: None,
                expiration: days(1),
                ..rule()
            }),
            "MalformedXML"
        );
        for (class, days, code) in [
            ("GLACIER", 1, "NotImplemented"),
            ("STANDARD_IA", 29, "InvalidArgument"),
            ("INTELLIGENT_TIERING", -1, "InvalidArgument"),
            ("INTELLIGENT_TIERING", 50, "InvalidArgument"),
            ("STANDARD", 1, "MalformedXML"),
        ] {
            let moved = moves(&[(class, days)]);
            let rule = LifecycleRule {
                expiration: super::tests::days(50),
                ..moved
            };
            assert_eq!(refused(rule), code, "{class} after {days}");
        }
        let mut two = [rule(), rule()].map(|rule| LifecycleRule {
            id: Some("same".into()),
            expiration: days(1),
            ..rule
        });
        assert_eq!(
            judged(&mut two).unwrap_err().code().as_str(),
            "InvalidArgument"
        );
        assert!(
            judged(&mut [LifecycleRule {
                expiration: days(1),
                ..rule()
            }])
            .is_ok()
        );
    }
}
