//! Tags of objects, and what a tag may be (AWS, "Categorizing your storage using tags").

use crate::Store;
use crate::authorize::{Judge, Who};
use crate::details;
use crate::error::{custom, denied};
use crate::objects::{Look, readable};
use crate::rows::{self, About};
use boira_api::form;
use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Store {
    pub async fn get_object_tagging(
        self: &Arc<Self>,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<GetObjectTaggingOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let look = Look {
            who,
            bucket: input.bucket,
            key: input.key,
            version: input.version_id,
            of_marker: true,
            ..Look::default()
        };
        let found = self.find(look).await?;
        Ok(GetObjectTaggingOutput {
            tag_set: tag_set(&found.version.about.tags),
            version_id: found.told,
        })
    }

    pub async fn put_object_tagging(
        self: &Arc<Self>,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<PutObjectTaggingOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let tags = judged_set(input.tagging.tag_set, Tagged::Object)?;
        let judge = request.extensions.get::<Judge>();
        if judge.is_some_and(|judge| !judge.may_tag(&input.key, &tags)) {
            return Err(denied());
        }
        let version_id = self
            .tag(who, input.bucket, input.key, input.version_id, tags)
            .await?;
        Ok(PutObjectTaggingOutput { version_id })
    }

    pub async fn delete_object_tagging(
        self: &Arc<Self>,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<DeleteObjectTaggingOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let tags = BTreeMap::new();
        let version_id = self
            .tag(who, input.bucket, input.key, input.version_id, tags)
            .await?;
        Ok(DeleteObjectTaggingOutput { version_id })
    }

    async fn tag(
        &self,
        who: Who,
        name: String,
        key: String,
        id: Option<String>,
        tags: BTreeMap<String, String>,
    ) -> S3Result<Option<String>> {
        self.db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &name, &who.account)?;
                let version = rows::named(tx.connection, bucket.id, &key, id.as_deref())?;
                let told = bucket.told(&version.id);
                readable(&version, true, told.as_ref())?;
                who.may(&bucket, &version)?;
                let about = About {
                    tags,
                    ..version.about.clone()
                };
                bucket.describe(tx, &version, &about)?;
                Ok(told)
            })
            .await
    }
}

pub fn tags_of_header(text: Option<&str>) -> S3Result<BTreeMap<String, String>> {
    let Some(text) = text else {
        return Ok(BTreeMap::new());
    };
    let wrong = || {
        s3_error!(
            InvalidArgument,
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates."
        )
    };
    let pairs = form::parse(text.as_bytes()).map_err(|_| wrong())?;
    let tag = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into(), value.into());
    judged(pairs.into_iter().map(tag).collect(), Tagged::Object)
}

/// The other way round.
pub fn encoded_tags(tags: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (name, value) in tags {
        if !text.is_empty() {
            text.push('&');
        }
        form::percent_encode(&mut text, name.as_bytes(), b"");
        text.push('=');
        form::percent_encode(&mut text, value.as_bytes(), b"");
    }
    text
}

/// What has tags, with AWS's bounds and words for it.
#[derive(Clone, Copy)]
pub enum Tagged {
    Object,
    Bucket,
}

impl Tagged {
    fn most(self) -> usize {
        match self {
            Self::Object => 10,
            Self::Bucket => 50,
        }
    }

    /// Why it has no tags of AWS's own.
    fn reserved(self) -> &'static str {
        match self {
            Self::Object => "Your TagKey cannot be prefixed with aws:",
            Self::Bucket => "System tags cannot be added/updated by requester",
        }
    }
}

/// Tags within AWS's limits ("Categorizing your storage using tags"): as many as what is tagged may have.
pub fn judged(tags: Vec<(String, String)>, tagged: Tagged) -> S3Result<BTreeMap<String, String>> {
    let invalid = |message: &'static str| s3_error!(InvalidTag, "{message}");
    let most = tagged.most();
    if tags.len() > most {
        let message = format!("Object tags cannot be greater than {most}");
        return Err(custom("BadRequest", StatusCode::BAD_REQUEST, message));
    }
    let allowed = |text: &str| {
        text.chars()
            .all(|c| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c))
    };
    let mut found = BTreeMap::new();
    for (name, value) in tags {
        if name.is_empty() || name.chars().count() > 128 || !allowed(&name) {
            let error = invalid("The TagKey you have provided is invalid");
            return Err(details::with(error, "TagKey", name));
        }
        if value.chars().count() > 256 || !allowed(&value) {
            let error = invalid("The TagValue you have provided is invalid");
            return Err(details::with(error, "TagValue", value));
        }
        if name.starts_with("aws:") {
            return Err(invalid(tagged.reserved()));
        }
        if found.insert(name, value).is_some() {
            return Err(invalid("Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(found)
}

pub fn judged_set(set: TagSet, tagged: Tagged) -> S3Result<BTreeMap<String, String>> {
    let pair = |tag: Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
    judged(set.into_iter().map(pair).collect(), tagged)
}

pub fn tag_set(tags: &BTreeMap<String, String>) -> TagSet {
    let tag = |(key, value): (&String, &String)| Tag {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    tags.iter().map(tag).collect()
}
