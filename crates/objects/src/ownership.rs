//! ACLs of buckets and objects, and whether a bucket has any: ownership controls (AWS, "Controlling
//! ownership of objects and disabling ACLs for your bucket").

use crate::Store;
use crate::access::{account, canonical, named_owner};
use crate::acl::{self, ANONYMOUS, Acl, EC2, Wish};
use crate::authorize::{Who, blocked};
use crate::db::Tx;
use crate::error::malformed;
use crate::objects::readable;
use crate::rows::{self, About, Bucket, Ownership, Version};
use http::Extensions;
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an upload wants of its object's owner and ACL: decided where the bucket is at hand.
#[derive(Clone)]
pub struct Put {
    wish: Wish,
    caller: Option<String>,
}

impl Put {
    /// The canonical user id of who puts, where that isn't the bucket's owner.
    pub fn by(&self, bucket: &Bucket) -> Option<String> {
        let other = self.caller.as_ref() != Some(&bucket.owner);
        let id = || {
            self.caller
                .as_deref()
                .map_or(ANONYMOUS.to_owned(), canonical)
        };
        other.then(id)
    }

    pub fn apply(&self, bucket: &Bucket, about: &mut About) -> S3Result<()> {
        let blocks = blocked(&bucket.config).block_public_acls == Some(true);
        let (owner, acl) = self
            .wish
            .of_object(bucket, self.caller.as_deref(), blocks)?;
        about.owner = owner;
        about.acl = acl;
        Ok(())
    }
}

/// The list of a bucket, also where it was never set.
pub fn of_bucket(bucket: &Bucket) -> Acl {
    let set = bucket.config.acl.clone();
    let set = set.filter(|_| bucket.config.ownership != Ownership::BucketOwnerEnforced);
    set.unwrap_or_else(|| Acl::private(&canonical(&bucket.owner)))
}

/// The canonical user id of an object's owner, and its list.
pub fn of_object(bucket: &Bucket, about: &About) -> (String, Acl) {
    let of_bucket = canonical(&bucket.owner);
    if bucket.config.ownership == Ownership::BucketOwnerEnforced {
        let acl = Acl::private(&of_bucket);
        return (of_bucket, acl);
    }
    let owner = about.owner.clone().unwrap_or(of_bucket);
    let acl = about.acl.clone().unwrap_or_else(|| Acl::private(&owner));
    (owner, acl)
}

impl Store {
    /// What the headers of a request say of the ACL of what it puts.
    pub fn acl_wish(&self, headers: &http::HeaderMap, extensions: &Extensions) -> S3Result<Put> {
        Ok(Put {
            wish: Wish::of(headers, |id| self.knows(id))?,
            caller: crate::access::caller(extensions),
        })
    }

    /// Whether a canonical user id is somebody's.
    pub fn knows(&self, id: &str) -> bool {
        id == EC2 || self.cloud.account_of(id).is_some()
    }

    pub fn shown_owner(&self, id: &str) -> Owner {
        named_owner(id, self.cloud.account_of(id))
    }

    /// Says whose objects of a bucket are; each owner is looked up once.
    pub fn owners<'a>(&'a self, bucket: &'a Bucket) -> impl FnMut(&About) -> Owner + 'a {
        let mut known: BTreeMap<String, Owner> = BTreeMap::new();
        move |about| {
            let counts = bucket.config.ownership != Ownership::BucketOwnerEnforced;
            match about.owner.as_ref().filter(|_| counts) {
                None => crate::access::owner(&bucket.owner),
                Some(id) => {
                    let owner = known.entry(id.clone());
                    owner.or_insert_with(|| self.shown_owner(id)).clone()
                }
            }
        }
    }

    /// Who began an upload.
    pub fn began(&self, bucket: &Bucket, about: &About) -> Owner {
        match &about.by {
            Some(id) => self.shown_owner(id),
            None => crate::access::owner(&bucket.owner),
        }
    }

    fn shown_acl(&self, acl: &Acl) -> Vec<Grant> {
        acl.shown(|id| self.shown_owner(id).display_name)
    }

    pub async fn get_bucket_acl(
        self: &Arc<Self>,
        request: S3Request<GetBucketAclInput>,
    ) -> S3Result<GetBucketAclOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        Ok(GetBucketAclOutput {
            grants: Some(self.shown_acl(&of_bucket(&bucket))),
            owner: Some(self.shown_owner(&canonical(&bucket.owner))),
        })
    }

    pub async fn put_bucket_acl(
        self: &Arc<Self>,
        request: S3Request<PutBucketAclInput>,
    ) -> S3Result<PutBucketAclOutput> {
        let account = account(&request.extensions)?;
        let wish = Wish::of(&request.headers, |id| self.knows(id))?;
        let (name, body) = (request.input.bucket, request.input.access_control_policy);
        let owner = canonical(&account);
        let body = given(&wish, body)?;
        let by_body = body.is_some();
        let wanted = match body {
            Some(body) => acl::of_xml(body, &owner, |id| self.knows(id))?,
            None => wish.of_bucket(&owner)?.ok_or_else(nothing_given)?,
        };
        self.configure(account, name, move |bucket, config| {
            if by_body && holds_anyway(bucket, &wanted) {
                return Ok(());
            }
            may_be_set(bucket, &wanted)?;
            config.acl = Some(wanted);
            Ok(())
        })
        .await?;
        Ok(PutBucketAclOutput::default())
    }

    pub async fn get_object_acl(
        self: &Arc<Self>,
        request: S3Request<GetObjectAclInput>,
    ) -> S3Result<GetObjectAclOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let (owner, acl) = self
            .db
            .read(move |db| {
                let bucket = rows::bucket(db, &input.bucket, &who.account)?;
                let id = input.version_id.as_deref();
                let version = object(db, &bucket, (&input.key, id), id.is_some())?;
                who.may(&bucket, &version)?;
                Ok(of_object(&bucket, &version.about))
            })
            .await?;
        Ok(GetObjectAclOutput {
            grants: Some(self.shown_acl(&acl)),
            owner: Some(self.shown_owner(&owner)),
            ..Default::default()
        })
    }

    pub async fn put_object_acl(
        self: &Arc<Self>,
        request: S3Request<PutObjectAclInput>,
    ) -> S3Result<PutObjectAclOutput> {
        let wish = Wish::of(&request.headers, |id| self.knows(id))?;
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let body = given(&wish, input.access_control_policy)?;
        if body.is_none() && wish.is_none() {
            return Err(nothing_given());
        }
        let store = self.clone();
        self.db
            .write(move |tx: &Tx<'_>| {
                let bucket = rows::bucket(tx.connection, &input.bucket, &who.account)?;
                let id = input.version_id.as_deref();
                let version = object(tx.connection, &bucket, (&input.key, id), true)?;
                who.may(&bucket, &version)?;
                let (owner, _) = of_object(&bucket, &version.about);
                let wanted = match body {
                    Some(body) => {
                        let wanted = acl::of_xml(body, &owner, |id| store.knows(id))?;
                        if holds_anyway(&bucket, &wanted) {
                            return Ok(());
                        }
                        wanted
                    }
                    None => wish
                        .of_owned(&owner, &canonical(&bucket.owner))?
                        .ok_or_else(nothing_given)?,
                };
                may_be_set(&bucket, &wanted)?;
                let about = About {
                    acl: Some(wanted).filter(|acl| *acl != Acl::private(&owner)),
                    ..version.about.clone()
                };
                bucket.describe(tx, &version, &about)
            })
            .await?;
        Ok(PutObjectAclOutput::default())
    }

    pub async fn get_bucket_ownership_controls(
        self: &Arc<Self>,
        request: S3Request<GetBucketOwnershipControlsInput>,
    ) -> S3Result<GetBucketOwnershipControlsOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        let name = bucket.config.ownership.name().ok_or_else(|| {
            s3_error!(
                OwnershipControlsNotFoundError,
                "The bucket ownership controls were not found"
            )
        })?;
        let rule = OwnershipControlsRule {
            object_ownership: ObjectOwnership::from_static(name),
        };
        Ok(GetBucketOwnershipControlsOutput {
            ownership_controls: Some(OwnershipControls { rules: vec![rule] }),
        })
    }

    pub async fn put_bucket_ownership_controls(
        self: &Arc<Self>,
        request: S3Request<PutBucketOwnershipControlsInput>,
    ) -> S3Result<PutBucketOwnershipControlsOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let ownership = match &input.ownership_controls.rules[..] {
            [rule] => Ownership::named(rule.object_ownership.as_str()),
            _ => None,
        };
        let ownership = ownership.ok_or_else(malformed)?;
        self.own(account, input.bucket, ownership).await?;
        Ok(PutBucketOwnershipControlsOutput::default())
    }

    pub async fn delete_bucket_ownership_controls(
        self: &Arc<Self>,
        request: S3Request<DeleteBucketOwnershipControlsInput>,
    ) -> S3Result<DeleteBucketOwnershipControlsOutput> {
        let account = account(&request.extensions)?;
        self.own(account, request.input.bucket, Ownership::Removed)
            .await?;
        Ok(DeleteBucketOwnershipControlsOutput::default())
    }

    async fn own(
        self: &Arc<Self>,
        account: String,
        name: String,
        ownership: Ownership,
    ) -> S3Result<()> {
        self.configure(account, name, move |bucket, config| {
            let private = Acl::private(&canonical(&bucket.owner));
            if ownership == Ownership::BucketOwnerEnforced && of_bucket(bucket) != private {
                return Err(acl::with_enforced());
            }
            config.ownership = ownership;
            Ok(())
        })
        .await
    }
}

/// A version that has an ACL. Of a delete marker it is the method that is wrong, or there is no such key.
fn object(
    db: &rusqlite::Connection,
    bucket: &Bucket,
    (key, id): (&str, Option<&str>),
    wrong_method: bool,
) -> S3Result<Version> {
    let version = rows::named(db, bucket.id, key, id)?;
    let told = bucket.told(&version.id);
    readable(&version, wrong_method, told.as_ref())?;
    Ok(version)
}

/// The body's list, where the headers say nothing.
fn given(wish: &Wish, body: Option<AccessControlPolicy>) -> S3Result<Option<AccessControlPolicy>> {
    match body.is_some() && !wish.is_none() {
        true => Err(s3_error!(
            UnexpectedContent,
            "This request does not support content"
        )),
        false => Ok(body),
    }
}

fn nothing_given() -> s3s::S3Error {
    s3_error!(
        MissingSecurityHeader,
        "Your request was missing a required header"
    )
}

/// What s3cmd writes back after a copy in parts: where ACLs are off, a list that only says so.
fn holds_anyway(bucket: &Bucket, acl: &Acl) -> bool {
    bucket.config.ownership == Ownership::BucketOwnerEnforced
        && *acl == Acl::private(&canonical(&bucket.owner))
}

/// Whether a bucket, or what is in it, may have that list.
fn may_be_set(bucket: &Bucket, acl: &Acl) -> S3Result<()> {
    if bucket.config.ownership == Ownership::BucketOwnerEnforced {
        return Err(acl::disabled());
    }
    match acl.is_public() && blocked(&bucket.config).block_public_acls == Some(true) {
        true => Err(acl::blocked()),
        false => Ok(()),
    }
}
