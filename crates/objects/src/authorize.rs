//! Who may do what: a bucket is its account's; a policy lets others in or keeps anybody out, and ACLs,
//! where they are on, let others in.
//!
//! Of buckets without a policy and ACLs nothing is asked here: there only the owner gets in, as the
//! operations themselves find.

use crate::Store;
use crate::access::{self, canonical};
use crate::acl::{self, ANONYMOUS, Acl, Level, Permission};
use crate::conditions::time;
use crate::copying::named;
use crate::error::{custom, denied, not_allowed};
use crate::ownership;
use crate::policy::{self, ASKED_TAG, Answer, EXISTING_TAG, Policy, Question};
use crate::rows::{self, Bucket, Config, Ownership, Upload, Version};
use crate::signed::Query;
use crate::tagging::tags_of_header;
use http::{Extensions, HeaderMap, StatusCode};
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub address: IpAddr,
    /// The version of TLS, such as `1.3`, where nobody can read along.
    pub tls: Option<&'static str>,
}

/// A bucket with a policy or with ACLs.
pub struct Governed {
    owner: String,
    policy: Option<Policy>,
    /// A public policy counts for the owner only.
    restricted: bool,
    /// Where ACLs are on.
    acl: Option<Acl>,
    /// Whether grants to groups count.
    public_acls: bool,
}

impl Governed {
    pub fn of(bucket: &Bucket) -> Option<Self> {
        let acls = bucket.config.ownership != Ownership::BucketOwnerEnforced;
        let policy = bucket.config.policy.as_ref().map(|text| {
            Policy::parse(text, &bucket.name).unwrap_or_else(|error| {
                tracing::error!("the policy of {} keeps everybody out: {error}", bucket.name);
                Policy::denying()
            })
        });
        if policy.is_none() && !acls {
            return None;
        }
        let block = blocked(&bucket.config);
        let public = policy.as_ref().is_some_and(Policy::is_public);
        Some(Self {
            owner: bucket.owner.clone(),
            restricted: public && block.restrict_public_buckets == Some(true),
            policy,
            acl: acls.then(|| ownership::of_bucket(bucket)),
            public_acls: block.ignore_public_acls != Some(true),
        })
    }
}

/// The public access block of a bucket: all of it, until somebody says otherwise.
pub fn blocked(config: &Config) -> PublicAccessBlockConfiguration {
    let all = |value| PublicAccessBlockConfiguration {
        block_public_acls: value,
        block_public_policy: value,
        ignore_public_acls: value,
        restrict_public_buckets: value,
    };
    match (&config.public_access, config.public_access_removed) {
        (Some(block), _) => block.clone(),
        (None, true) => all(None),
        (None, false) => all(Some(true)),
    }
}

/// An object as a request finds it.
#[derive(Default)]
struct Object {
    tags: BTreeMap<String, String>,
    /// The canonical user id of its owner, and its list, where there is an object.
    owned: Option<(String, Acl)>,
    /// Which version it is.
    age: Option<i64>,
    /// Of one that is being uploaded: [`said_of_object`].
    said: BTreeMap<String, String>,
}

impl Object {
    fn of(bucket: &Bucket, version: &Version) -> Self {
        Self {
            owned: Some(ownership::of_object(bucket, &version.about)),
            tags: version.about.tags.clone(),
            age: Some(version.age),
            said: BTreeMap::new(),
        }
    }
}

/// Judges what a request asks, and what it names in its body.
#[derive(Clone)]
pub struct Judge {
    governed: Arc<Governed>,
    account: Option<String>,
    context: Arc<BTreeMap<String, Vec<String>>>,
    bucket: String,
    object: Arc<Object>,
    action: Arc<str>,
    /// What is asked besides, if the object has tags: they go along.
    for_tags: Option<Arc<str>>,
}

/// The judge of a copy's source.
#[derive(Clone)]
pub struct OfSource(pub Judge);

impl Judge {
    fn of(
        store: &Store,
        asked: &Asked<'_>,
        governed: Arc<Governed>,
        bucket: &str,
        object: Object,
        action: &str,
    ) -> Self {
        let mut context = context(asked, (store.clock)());
        note_tags(&mut context, &object);
        let region = store.settings.region.clone();
        context.insert("aws:requestedregion".into(), vec![region]);
        let owner = [governed.owner.clone()];
        for key in ["aws:resourceaccount", "s3:resourceaccount"] {
            context.insert(key.into(), owner.to_vec());
        }
        // What began the upload said of the object counts for its parts and its end.
        for (name, value) in &object.said {
            match tags_of_header(Some(value.as_str())) {
                Ok(tags) if name == TAGGING => note_asked_tags(&mut context, &tags),
                _ => {
                    let key = format!("s3:{name}");
                    context.entry(key).or_insert_with(|| vec![value.clone()]);
                }
            }
        }
        Self {
            governed,
            account: asked.account.map(ToOwned::to_owned),
            context: Arc::new(context),
            bucket: bucket.to_owned(),
            object: Arc::new(object),
            action: action.into(),
            for_tags: None,
        }
    }

    /// Judges once more, where what is found isn't what was there when the request was let in.
    pub fn still(&self, bucket: &Bucket, version: &Version) -> S3Result<()> {
        if self.object.age == Some(version.age) {
            return Ok(());
        }
        let again = self.of_object(Object::of(bucket, version));
        let key = String::from_utf8_lossy(&version.key);
        match again.may(&self.action, &key) && again.may_take_tags(&key) {
            true => Ok(()),
            false => Err(denied()),
        }
    }

    /// Likewise for one of many objects: this version of it where the request names one.
    pub fn of_one(&self, bucket: &Bucket, found: Option<&Version>, id: Option<&str>) -> Self {
        let object = found.filter(|version| !version.marker);
        let object = object.map(|version| Object::of(bucket, version));
        let mut judge = self.of_object(object.unwrap_or_default());
        if let Some(id) = id {
            let context = Arc::make_mut(&mut judge.context);
            context.insert("s3:versionid".into(), vec![id.to_owned()]);
        }
        judge
    }

    fn of_object(&self, object: Object) -> Self {
        let mut context = (*self.context).clone();
        context.retain(|name, _| !name.starts_with(EXISTING_TAG));
        note_tags(&mut context, &object);
        Self {
            context: Arc::new(context),
            object: Arc::new(object),
            ..self.clone()
        }
    }

    /// Whether it may give an object these tags.
    pub fn may_tag(&self, key: &str, tags: &BTreeMap<String, String>) -> bool {
        let mut context = (*self.context).clone();
        note_asked_tags(&mut context, tags);
        let judge = Self {
            context: Arc::new(context),
            ..self.clone()
        };
        judge.may(&self.action, key)
    }

    fn may_take_tags(&self, key: &str) -> bool {
        let asked = self
            .for_tags
            .as_ref()
            .filter(|_| !self.object.tags.is_empty());
        asked.is_none_or(|action| self.may(action, key))
    }

    /// Whether a policy lets it do that, whatever ACLs say.
    pub fn by_policy_only(&self, action: &str, key: &str) -> bool {
        self.by_policy(action, Some(key)) == Answer::Allow && !self.governed.restricted
    }

    fn is_owner(&self) -> bool {
        self.account.as_ref() == Some(&self.governed.owner)
    }

    /// Whether it may know which objects there are.
    pub fn may_list(&self) -> bool {
        self.allows("s3:ListBucket", None)
    }

    pub fn may(&self, action: &str, key: &str) -> bool {
        self.allows(action, Some(key))
    }

    fn allows(&self, action: &str, key: Option<&str>) -> bool {
        // The policy is its owner's alone, who must not be able to lock himself out for good.
        if of_policy(action) {
            return self.is_owner();
        }
        match self.by_policy(action, key) {
            Answer::Deny => false,
            Answer::Allow => self.is_owner() || !self.governed.restricted || self.by_acl(action),
            Answer::Nothing => self.by_acl(action),
        }
    }

    fn by_policy(&self, action: &str, key: Option<&str>) -> Answer {
        let Some(policy) = &self.governed.policy else {
            return Answer::Nothing;
        };
        let resource = match key {
            Some(key) => format!("arn:aws:s3:::{}/{key}", self.bucket),
            None => format!("arn:aws:s3:::{}", self.bucket),
        };
        let answer = policy.answer(&Question {
            account: self.account.as_deref(),
            action,
            resource: &resource,
            context: &self.context,
        });
        let of_object = key.is_some() && !OF_BUCKET.contains(&action);
        let of_another = of_object && self.is_of_another();
        match answer {
            // The bucket's owner can't give away what isn't his.
            Answer::Allow if of_another => Answer::Nothing,
            answer => answer,
        }
    }

    /// Whether the object that it is about is another's than the bucket's owner's.
    fn is_of_another(&self) -> bool {
        let owned = self.object.owned.as_ref();
        owned.is_some_and(|(owner, _)| *owner != canonical(&self.governed.owner))
    }

    /// What the lists grant; of what no list is about, everything to the owners. They may always read
    /// and write the list itself, and the bucket's may always delete.
    fn by_acl(&self, action: &str) -> bool {
        let (account, public) = (self.account.as_deref(), self.governed.public_acls);
        let Some(list) = &self.governed.acl else {
            return self.is_owner();
        };
        let is_own = |owner: &String| account.map(canonical).as_ref() == Some(owner);
        let about_list = |wanted| [Permission::ReadAcp, Permission::WriteAcp].contains(&wanted);
        match (acl::level(action), &self.object.owned) {
            (Level::Bucket(wanted), _) => {
                let always = about_list(wanted) || DELETING.contains(&action);
                (self.is_owner() && always) || list.allows(account, wanted, public)
            }
            // Of what isn't there, who may list hears so; but nobody is let in to what may come.
            (Level::Object(Permission::WriteAcp), None) => self.is_owner(),
            (Level::Object(_), None) => self.is_owner() || self.may_list(),
            (Level::Object(wanted), Some((owner, list))) => {
                (is_own(owner) && about_list(wanted)) || list.allows(account, wanted, public)
            }
            // Retention, holds and versions are the bucket's owner's; tags are the object's, too.
            (Level::Neither, owned) => {
                let tags = action.ends_with("Tagging");
                let owns = owned.as_ref().is_some_and(|(owner, _)| is_own(owner));
                self.is_owner() || (tags && owns)
            }
        }
    }
}

/// Actions on objects that are the bucket's to allow, whoever owns what is there.
const OF_BUCKET: [&str; 5] = [
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
];

/// What a bucket's owner may do to everybody's objects in it.
const DELETING: [&str; 2] = ["s3:DeleteObject", "s3:AbortMultipartUpload"];

/// A request as it is judged.
pub struct Asked<'a> {
    pub operation: &'a str,
    pub bucket: Option<&'a str>,
    pub key: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub query: &'a Query,
    pub client: Option<Client>,
    /// `None` for who has no key.
    pub account: Option<&'a str>,
}

impl Asked<'_> {
    fn account(&self) -> Option<String> {
        self.account.map(ToOwned::to_owned)
    }
}

/// Who asks, for whom that counts, and by what it was let in.
#[derive(Clone, Default)]
pub struct Who {
    /// The account for which it acts: its own, or the bucket's owner's who lets it.
    pub account: String,
    caller: Option<String>,
    judge: Option<Judge>,
}

impl Who {
    pub fn of(extensions: &Extensions) -> S3Result<Self> {
        Ok(Self {
            account: access::account(extensions)?,
            caller: access::caller(extensions),
            judge: extensions.get::<Judge>().cloned(),
        })
    }

    /// As whom the source of a copy is read.
    pub fn of_source(extensions: &Extensions) -> S3Result<Self> {
        Ok(Self {
            account: access::source_account(extensions)?,
            caller: access::caller(extensions),
            judge: extensions.get::<OfSource>().map(|of| of.0.clone()),
        })
    }

    /// Whether it may still do with this version what it was let in for: it may have come since.
    pub fn may(&self, bucket: &Bucket, version: &Version) -> S3Result<()> {
        let judge = self.judge.as_ref();
        judge.map_or(Ok(()), |judge| judge.still(bucket, version))
    }

    /// Whether it may go on with an upload: who began it, the bucket's owner, and others whom a policy
    /// lets do that; an ACL lets begin, and no more.
    pub fn may_go_on(&self, bucket: &Bucket, upload: &Upload) -> S3Result<()> {
        let caller = self.caller.as_deref();
        let id = caller.map_or(ANONYMOUS.to_owned(), canonical);
        let began = upload.about.by.as_ref() == Some(&id);
        let owns = caller == Some(bucket.owner.as_str());
        let allowed = |judge: &Judge| {
            let key = String::from_utf8_lossy(&upload.key);
            judge.by_policy_only(&judge.action, &key)
        };
        match began || owns || self.judge.as_ref().is_none_or(allowed) {
            true => Ok(()),
            false => Err(denied()),
        }
    }
}

/// Finds out for whom a request acts: its account, or the owner of a bucket that lets it in. The judge is
/// that of buckets with a policy or ACLs.
pub async fn acting(store: &Arc<Store>, asked: &Asked<'_>) -> S3Result<(String, Option<Judge>)> {
    let own = || asked.account().ok_or_else(denied);
    let bucket = match asked.bucket {
        Some(bucket) if asked.operation != "CreateBucket" => bucket,
        _ => return Ok((own()?, None)),
    };
    let known = store.db.known.get(bucket);
    let Some(governed) = known.as_ref().and_then(|known| known.governed.clone()) else {
        return match (asked.account(), known) {
            (Some(account), _) => Ok((account, None)),
            (None, None) => Err(rows::no_such_bucket()),
            (None, Some(_)) => Err(denied()),
        };
    };
    let id = asked.query.get("versionId").map(ToOwned::to_owned);
    let action = policy::action(asked.operation, id.is_some());
    let mut object = store
        .looked_at(&governed, &action, bucket, asked.key, id)
        .await?;
    if let Some(upload) = asked.query.get("uploadId")
        && governed.policy.is_some()
    {
        object.said = store
            .said_of_upload(bucket, asked.key.unwrap_or_default(), upload)
            .await?;
    }
    let judge = Judge::of(store, asked, governed, bucket, object, &action);
    let owner = judge.governed.owner.clone();
    // Its keys, or tags, are in the body: each is judged when it is read.
    let of_tags = || {
        let policy = judge.governed.policy.as_ref();
        policy.is_some_and(Policy::asks_for_tags)
    };
    let later =
        asked.operation == "DeleteObjects" || (asked.operation == "PutObjectTagging" && of_tags());
    if later && (judge.is_owner() || !judge.governed.restricted) {
        return Ok((owner, Some(judge)));
    }
    if of_policy(&action) && !judge.is_owner() && judge.by_policy(&action, None) == Answer::Allow {
        // Who may, but isn't of the bucket's account (GetBucketPolicy).
        return Err(not_allowed());
    }
    let besides = besides(asked);
    let name = asked.key.unwrap_or_default();
    let allowed = judge.allows(&action, asked.key);
    // Whom an ACL lets put an object, he owns it, and may tag it.
    let owns = |besides: &str| {
        let his = besides == "s3:PutObjectTagging";
        his && judge.by_policy(besides, asked.key) != Answer::Deny && judge.by_acl(&action)
    };
    let may = |action: &str| judge.may(action, name) || owns(action);
    let lists = asks_for_list(asked.headers)
        && judge.by_policy("s3:PutObjectAcl", asked.key) == Answer::Deny;
    match allowed && !lists && besides.into_iter().all(may) {
        true => Ok((owner, Some(judge))),
        false => Err(denied()),
    }
}

/// Whether it is about a bucket's policy itself.
fn of_policy(action: &str) -> bool {
    action.ends_with("BucketPolicy")
}

/// Whether what is put is to have an ACL of its own. A policy that allows to put allows that, too, unless
/// another statement denies it: the list is the writer's.
fn asks_for_list(headers: &HeaderMap) -> bool {
    let mut names = headers.keys().map(http::HeaderName::as_str);
    names.any(|name| name == "x-amz-acl" || name.starts_with("x-amz-grant-"))
}

/// Actions that a request asks for besides its own.
fn besides(asked: &Asked<'_>) -> Vec<&'static str> {
    let asks = [
        (
            "x-amz-bypass-governance-retention",
            "s3:BypassGovernanceRetention",
        ),
        ("x-amz-object-lock-mode", "s3:PutObjectRetention"),
        (
            "x-amz-object-lock-retain-until-date",
            "s3:PutObjectRetention",
        ),
        ("x-amz-object-lock-legal-hold", "s3:PutObjectLegalHold"),
        ("x-amz-tagging", "s3:PutObjectTagging"),
    ];
    let by_header = asks
        .iter()
        .filter(|(header, _)| asked.headers.contains_key(*header))
        .map(|(_, action)| *action);
    let attributes =
        (asked.operation == "GetObjectAttributes").then(|| match asked.query.has("versionId") {
            true => "s3:GetObjectVersionAttributes",
            false => "s3:GetObjectAttributes",
        });
    // To know that it is the one object is to read it ("Conditional requests").
    let conditions = [
        "if-match",
        "x-amz-if-match-last-modified-time",
        "x-amz-if-match-size",
    ];
    let compares = matches!(
        asked.operation,
        "PutObject" | "CopyObject" | "CompleteMultipartUpload" | "DeleteObject"
    ) && conditions
        .iter()
        .any(|name| asked.headers.contains_key(*name));
    let reads = compares.then_some("s3:GetObject");
    by_header.chain(attributes).chain(reads).collect()
}

fn note_tags(context: &mut BTreeMap<String, Vec<String>>, object: &Object) {
    for (name, value) in &object.tags {
        let name = format!("{EXISTING_TAG}{}", name.to_lowercase());
        context.insert(name, vec![value.clone()]);
    }
}

/// For whom the source of a copy is read: `None` where nothing is copied.
pub async fn acting_for_source(
    store: &Arc<Store>,
    asked: &Asked<'_>,
) -> S3Result<Option<(String, Option<Judge>)>> {
    let header = asked.headers.get("x-amz-copy-source");
    let Some(header) = header.and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    let own = || asked.account().ok_or_else(denied);
    let Ok(from) = CopySource::parse(header) else {
        return Ok(Some((own()?, None)));
    };
    let (bucket, key, id) = named(&from)?;
    let known = store.db.known.get(&bucket);
    let Some(governed) = known.and_then(|known| known.governed.clone()) else {
        return Ok(Some((own()?, None)));
    };
    let action = policy::action("GetObject", id.is_some());
    let tagging = policy::action("GetObjectTagging", id.is_some());
    let object = store
        .looked_at(&governed, &action, &bucket, Some(&key), id)
        .await?;
    let judge = Judge {
        for_tags: copies_tags(asked).then(|| tagging.as_str().into()),
        ..Judge::of(store, asked, governed, &bucket, object, &action)
    };
    match judge.may(&action, &key) && judge.may_take_tags(&key) {
        true => Ok(Some((judge.governed.owner.clone(), Some(judge)))),
        false => Err(denied()),
    }
}

fn copies_tags(asked: &Asked<'_>) -> bool {
    let directive = asked.headers.get("x-amz-tagging-directive");
    asked.operation == "CopyObject" && directive.is_none_or(|value| value.as_bytes() != b"REPLACE")
}

fn context(asked: &Asked<'_>, now_ms: i64) -> BTreeMap<String, Vec<String>> {
    let (account, headers) = (asked.account, asked.headers);
    let mut context = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        context.insert(name.to_owned(), vec![value.to_owned()]);
    };
    // Which of the requests that s3:PutObject allows make an object ("Enforce conditional writes").
    let creates = match asked.operation {
        "PutObject" | "CopyObject" | "CompleteMultipartUpload" => Some("true"),
        "CreateMultipartUpload" | "UploadPart" | "UploadPartCopy" => Some("false"),
        _ => None,
    };
    if let Some(creates) = creates {
        set("s3:objectcreationoperation", creates);
    }
    let mut now = Vec::new();
    let _ = Timestamp::from(time(now_ms)).format(TimestampFormat::DateTime, &mut now);
    set("aws:currenttime", &String::from_utf8_lossy(&now));
    set("aws:epochtime", &(now_ms / 1000).to_string());
    set(
        "aws:principaltype",
        if account.is_some() {
            "Account"
        } else {
            "Anonymous"
        },
    );
    set("aws:userid", account.unwrap_or("anonymous"));
    if let Some(account) = account {
        set("aws:principalaccount", account);
        set("aws:principalarn", &format!("arn:aws:iam::{account}:root"));
    }
    if let Some(client) = asked.client {
        set("aws:sourceip", &client.address.to_string());
        set(
            "aws:securetransport",
            if client.tls.is_some() {
                "true"
            } else {
                "false"
            },
        );
        if let Some(version) = client.tls {
            set("s3:tlsversion", version);
        }
    }
    for (name, key) in [
        ("prefix", "s3:prefix"),
        ("delimiter", "s3:delimiter"),
        ("max-keys", "s3:max-keys"),
        ("versionId", "s3:versionid"),
    ] {
        if let Some(value) = asked.query.get(name) {
            set(key, value);
        }
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    for (name, key) in [
        ("user-agent", "aws:useragent"),
        ("referer", "aws:referer"),
        ("if-match", "s3:if-match"),
        ("if-none-match", "s3:if-none-match"),
        ("x-amz-object-lock-mode", "s3:object-lock-mode"),
        ("x-amz-object-lock-legal-hold", "s3:object-lock-legal-hold"),
        (
            "x-amz-object-lock-retain-until-date",
            "s3:object-lock-retain-until-date",
        ),
        ("x-amz-content-sha256", "s3:x-amz-content-sha256"),
        ("x-amz-metadata-directive", "s3:x-amz-metadata-directive"),
        (
            "x-amz-website-redirect-location",
            "s3:x-amz-website-redirect-location",
        ),
    ] {
        if let Some(value) = text(name) {
            set(key, value);
        }
    }
    // However it is spelt: a rule about a folder mustn't be got around by a `%` or a slash.
    let source = text("x-amz-copy-source").and_then(|source| CopySource::parse(source).ok());
    if let Some((bucket, key, _)) = source.and_then(|source| named(&source).ok()) {
        set("s3:x-amz-copy-source", &format!("{bucket}/{key}"));
    }
    let date = asked.query.get("X-Amz-Date").or(text("x-amz-date"));
    if let Some(signed_ms) = date.and_then(boira_api::time::parse_basic) {
        set("s3:signatureage", &(now_ms - signed_ms).to_string());
    }
    for (name, value) in said_of_object(headers) {
        if name != TAGGING {
            set(&format!("s3:{name}"), &value);
        }
    }
    let in_query = asked.query.has("X-Amz-Signature") || asked.query.has("Signature");
    if account.is_some() {
        set(
            "s3:authtype",
            if in_query {
                "REST-QUERY-STRING"
            } else {
                "REST-HEADER"
            },
        );
        let old = text("authorization").is_some_and(|it| it.starts_with("AWS "))
            || asked.query.has("AWSAccessKeyId");
        set(
            "s3:signatureversion",
            if old { "AWS" } else { "AWS4-HMAC-SHA256" },
        );
    }
    if let Ok(tags) = tags_of_header(text(TAGGING)) {
        note_asked_tags(&mut context, &tags);
    }
    context
}

const TAGGING: &str = "x-amz-tagging";

/// What a request's headers say of the object that is to be, as far as policies ask for it.
pub fn said_of_object(headers: &HeaderMap) -> BTreeMap<String, String> {
    const NAMES: [&str; 11] = [
        "x-amz-acl",
        "x-amz-grant-full-control",
        "x-amz-grant-read",
        "x-amz-grant-read-acp",
        "x-amz-grant-write",
        "x-amz-grant-write-acp",
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-server-side-encryption-customer-algorithm",
        "x-amz-storage-class",
        TAGGING,
    ];
    let said = NAMES.iter().filter_map(|name| {
        let value = headers.get(*name)?.to_str().ok()?;
        Some((name.to_string(), value.to_owned()))
    });
    said.collect()
}

/// The tags that an object is to get.
fn note_asked_tags(context: &mut BTreeMap<String, Vec<String>>, tags: &BTreeMap<String, String>) {
    if tags.is_empty() {
        return;
    }
    for (name, value) in tags {
        let name = format!("{ASKED_TAG}{}", name.to_lowercase());
        context.insert(name, vec![value.clone()]);
    }
    let names = tags.keys().cloned().collect();
    context.insert("s3:requestobjecttagkeys".into(), names);
}

impl Store {
    /// The object that a request is about, as far as its judgement needs it.
    async fn looked_at(
        self: &Arc<Self>,
        governed: &Governed,
        action: &str,
        bucket: &str,
        key: Option<&str>,
        id: Option<String>,
    ) -> S3Result<Object> {
        let by_list = !matches!(acl::level(action), Level::Bucket(_));
        let (Some(key), true) = (key, governed.policy.is_some() || by_list) else {
            return Ok(Object::default());
        };
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.db
            .read(move |db| {
                let Some(bucket) = rows::find_bucket(db, &bucket)? else {
                    return Ok(Object::default());
                };
                let version = match id {
                    Some(id) => rows::version(db, bucket.id, &key, &id)?,
                    None => rows::current(db, bucket.id, &key)?,
                };
                let Some(version) = version.filter(|version| !version.marker) else {
                    return Ok(Object::default());
                };
                Ok(Object::of(&bucket, &version))
            })
            .await
    }

    async fn said_of_upload(
        self: &Arc<Self>,
        bucket: &str,
        key: &str,
        upload: &str,
    ) -> S3Result<BTreeMap<String, String>> {
        let (bucket, key, upload) = (bucket.to_owned(), key.to_owned(), upload.to_owned());
        self.db
            .read(move |db| {
                let Some(bucket) = rows::find_bucket(db, &bucket)? else {
                    return Ok(BTreeMap::new());
                };
                let Ok(upload) = rows::find_upload(db, bucket.id, &key, &upload) else {
                    return Ok(BTreeMap::new());
                };
                Ok(upload.about.said)
            })
            .await
    }

    /// Whether there is such an account, by its number or its canonical user id.
    fn has(&self, account: &str) -> bool {
        match account.len() {
            64 => self.cloud.account_of(account).is_some(),
            _ => self.cloud.account_of(&canonical(account)).is_some(),
        }
    }

    pub async fn put_bucket_policy(
        self: &Arc<Self>,
        request: S3Request<PutBucketPolicyInput>,
    ) -> S3Result<PutBucketPolicyOutput> {
        let account = crate::access::account(&request.extensions)?;
        let input = request.input;
        let malformed =
            |message: String| custom("MalformedPolicy", StatusCode::BAD_REQUEST, message);
        if input.policy.len() > policy::MOST_BYTES {
            return Err(malformed("Policies are limited to 20 KB in size.".into()));
        }
        let parsed = Policy::parse(&input.policy, &input.bucket).map_err(malformed)?;
        if !parsed.means_something() {
            return Err(malformed("Policy has invalid action".into()));
        }
        if !parsed.is_of_one_piece() {
            let why = "Action does not apply to any resource(s) in statement";
            return Err(malformed(why.into()));
        }
        if !parsed.accounts().all(|account| self.has(account)) {
            return Err(malformed("Invalid principal in policy".into()));
        }
        self.configure(account, input.bucket, move |_, config| {
            if parsed.is_public() && blocked(config).block_public_policy == Some(true) {
                return Err(s3_error!(
                    AccessDenied,
                    "The policy grants public access, which the bucket's public access block (BlockPublicPolicy) prevents."
                ));
            }
            config.policy = Some(input.policy);
            Ok(())
        })
        .await?;
        Ok(PutBucketPolicyOutput::default())
    }

    pub async fn get_bucket_policy(
        self: &Arc<Self>,
        request: S3Request<GetBucketPolicyInput>,
    ) -> S3Result<GetBucketPolicyOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        let policy = bucket.config.policy.ok_or_else(no_policy)?;
        Ok(GetBucketPolicyOutput {
            policy: Some(policy),
        })
    }

    pub async fn delete_bucket_policy(
        self: &Arc<Self>,
        request: S3Request<DeleteBucketPolicyInput>,
    ) -> S3Result<DeleteBucketPolicyOutput> {
        let account = crate::access::account(&request.extensions)?;
        self.set(account, request.input.bucket, |config| config.policy = None)
            .await?;
        Ok(DeleteBucketPolicyOutput::default())
    }

    pub async fn get_bucket_policy_status(
        self: &Arc<Self>,
        request: S3Request<GetBucketPolicyStatusInput>,
    ) -> S3Result<GetBucketPolicyStatusOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        let text = bucket.config.policy.as_ref().ok_or_else(no_policy)?;
        let policy = Policy::parse(text, &bucket.name).map_err(crate::error::internal)?;
        let status = PolicyStatus {
            is_public: Some(policy.is_public()),
        };
        Ok(GetBucketPolicyStatusOutput {
            policy_status: Some(status),
        })
    }
}

fn no_policy() -> s3s::S3Error {
    s3_error!(NoSuchBucketPolicy, "The bucket policy does not exist")
}
