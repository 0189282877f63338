//! Access control lists: who is granted what on a bucket or an object, as canned names, headers and XML
//! say it (AWS, "Access control list (ACL) overview").

use crate::access::canonical;
use crate::error::{custom, denied};
use crate::rows::{Bucket, Ownership};
use http::{HeaderMap, StatusCode};
use s3s::dto;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use serde::{Deserialize, Serialize};

pub const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
pub const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";
/// EC2 itself, which `aws-exec-read` lets read an image: the same canonical user id as at Amazon.
pub const EC2: &str = "6aa5a366c34c1cbe25dc49211496e913e0351eb0e8c37aa3477e40942ec6b97c";
/// Whose an object is that somebody without a key has put.
pub const ANONYMOUS: &str = "65a011a29cdf8ec533ec3d1ccaae921c";
/// Grants of one list, at most.
const MOST_GRANTS: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Permission {
    #[serde(rename = "f")]
    FullControl,
    #[serde(rename = "r")]
    Read,
    #[serde(rename = "w")]
    Write,
    #[serde(rename = "R")]
    ReadAcp,
    #[serde(rename = "W")]
    WriteAcp,
}

impl Permission {
    const ALL: [(Self, &'static str, &'static str); 5] = [
        (
            Self::FullControl,
            "FULL_CONTROL",
            "x-amz-grant-full-control",
        ),
        (Self::Read, "READ", "x-amz-grant-read"),
        (Self::Write, "WRITE", "x-amz-grant-write"),
        (Self::ReadAcp, "READ_ACP", "x-amz-grant-read-acp"),
        (Self::WriteAcp, "WRITE_ACP", "x-amz-grant-write-acp"),
    ];

    fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known, _)| *known == name);
        found.map(|(permission, _, _)| *permission)
    }

    fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(known, _, _)| *known == self);
        found.map_or("", |(_, name, _)| name)
    }
}

/// A permission for a canonical user id, or for a group by its URI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, Permission)", into = "(String, Permission)")]
pub struct Grant {
    pub who: String,
    pub permission: Permission,
}

impl From<(String, Permission)> for Grant {
    fn from((who, permission): (String, Permission)) -> Self {
        Self { who, permission }
    }
}

impl From<Grant> for (String, Permission) {
    fn from(grant: Grant) -> Self {
        (grant.who, grant.permission)
    }
}

fn is_group(who: &str) -> bool {
    who.starts_with("http://")
}

/// The grants of a bucket or an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Acl(pub Vec<Grant>);

impl Acl {
    /// What there is without a wish: everything for the owner, by his canonical user id.
    pub fn private(owner: &str) -> Self {
        Self(vec![Grant {
            who: owner.to_owned(),
            permission: Permission::FullControl,
        }])
    }

    /// Whether an account, or who has no key, is granted that. Groups count where `public` does.
    pub fn allows(&self, account: Option<&str>, wanted: Permission, public: bool) -> bool {
        let own = account.map(canonical);
        self.0.iter().any(|grant| {
            let fits = grant.permission == wanted || grant.permission == Permission::FullControl;
            let is_meant = match grant.who.as_str() {
                ALL_USERS => public,
                AUTHENTICATED_USERS => public && account.is_some(),
                who => own.as_deref() == Some(who),
            };
            fits && is_meant
        })
    }

    /// Whether it lets everybody in (AWS, "The meaning of 'public'").
    pub fn is_public(&self) -> bool {
        let open = |grant: &Grant| [ALL_USERS, AUTHENTICATED_USERS].contains(&grant.who.as_str());
        self.0.iter().any(open)
    }

    /// As S3 shows it; `name` gives an id the name that it is shown with.
    pub fn shown(&self, name: impl Fn(&str) -> Option<String>) -> Vec<dto::Grant> {
        let shown = self.0.iter().map(|grant| {
            let group = is_group(&grant.who);
            let grantee = dto::Grantee {
                display_name: if group { None } else { name(&grant.who) },
                email_address: None,
                id: (!group).then(|| grant.who.clone()),
                type_: dto::Type::from_static(match group {
                    true => dto::Type::GROUP,
                    false => dto::Type::CANONICAL_USER,
                }),
                uri: group.then(|| grant.who.clone()),
            };
            dto::Grant {
                grantee: Some(grantee),
                permission: Some(dto::Permission::from_static(grant.permission.name())),
            }
        });
        shown.collect()
    }
}

/// What actions in policies are in ACLs (AWS, "Mapping of ACL permissions and access policy
/// permissions"). Who may write a bucket may also delete from it, as it always was.
pub enum Level {
    Bucket(Permission),
    Object(Permission),
    /// Nothing that an ACL could grant.
    Neither,
}

pub fn level(action: &str) -> Level {
    use Permission::{Read, ReadAcp, Write, WriteAcp};
    match action {
        "s3:ListBucket" | "s3:ListBucketVersions" | "s3:ListBucketMultipartUploads" => {
            Level::Bucket(Read)
        }
        "s3:PutObject"
        | "s3:DeleteObject"
        | "s3:AbortMultipartUpload"
        | "s3:ListMultipartUploadParts" => Level::Bucket(Write),
        "s3:GetBucketAcl" => Level::Bucket(ReadAcp),
        "s3:PutBucketAcl" => Level::Bucket(WriteAcp),
        "s3:GetObject" | "s3:GetObjectVersion" => Level::Object(Read),
        "s3:GetObjectAcl" | "s3:GetObjectVersionAcl" => Level::Object(ReadAcp),
        "s3:PutObjectAcl" | "s3:PutObjectVersionAcl" => Level::Object(WriteAcp),
        _ => Level::Neither,
    }
}

/// What a request wants an ACL to be, before its owner is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    canned: Option<String>,
    grants: Option<Vec<Grant>>,
}

impl Wish {
    /// Of `x-amz-acl` and `x-amz-grant-…`.
    pub fn of(headers: &HeaderMap, exists: impl Fn(&str) -> bool) -> S3Result<Self> {
        let text = |name: &str| headers.get(name).map(|it| it.to_str().unwrap_or_default());
        let mut grants: Option<Vec<Grant>> = None;
        for (permission, _, header) in Permission::ALL {
            if let Some(value) = text(header) {
                let found = grants.get_or_insert_default();
                for who in grantees(value, &exists)? {
                    found.push(Grant { who, permission });
                }
            }
        }
        let wish = Self {
            canned: text("x-amz-acl").map(ToOwned::to_owned),
            grants,
        };
        match wish.canned.is_some() && wish.grants.is_some() {
            true => Err(s3_error!(
                InvalidRequest,
                "Specifying both Canned ACLs and Header Grants is not allowed"
            )),
            false => Ok(wish),
        }
    }

    pub fn is_none(&self) -> bool {
        self.canned.is_none() && self.grants.is_none()
    }

    pub fn is_canned(&self, name: &str) -> bool {
        self.canned.as_deref() == Some(name)
    }

    /// The list of a bucket whose owner has that canonical user id.
    pub fn of_bucket(&self, owner: &str) -> S3Result<Option<Acl>> {
        self.acl(owner, None)
    }

    /// The list of an object whose owner, and whose bucket's owner, have those ids.
    pub fn of_owned(&self, owner: &str, bucket_owner: &str) -> S3Result<Option<Acl>> {
        self.acl(owner, Some(bucket_owner))
    }

    fn acl(&self, owner: &str, bucket_owner: Option<&str>) -> S3Result<Option<Acl>> {
        use Permission::{FullControl, Read, ReadAcp, Write};
        if let Some(grants) = &self.grants {
            return limited(grants.clone()).map(Some);
        }
        let Some(name) = self.canned.as_deref() else {
            return Ok(None);
        };
        let more: Vec<(&str, Permission)> = match (name, bucket_owner) {
            ("private", _) => vec![],
            ("public-read", _) => vec![(ALL_USERS, Read)],
            ("public-read-write", _) => vec![(ALL_USERS, Read), (ALL_USERS, Write)],
            ("authenticated-read", _) => vec![(AUTHENTICATED_USERS, Read)],
            ("aws-exec-read", _) => vec![(EC2, Read)],
            ("log-delivery-write", None) => vec![(LOG_DELIVERY, Write), (LOG_DELIVERY, ReadAcp)],
            ("bucket-owner-read", Some(of)) if of != owner => vec![(of, Read)],
            ("bucket-owner-full-control", Some(of)) if of != owner => vec![(of, FullControl)],
            // Of a bucket they mean nothing ("Canned ACL" in AWS's guide).
            ("bucket-owner-read" | "bucket-owner-full-control", _) => vec![],
            _ => return Err(s3_error!(InvalidArgument, "Invalid x-amz-acl")),
        };
        let mut acl = Acl::private(owner);
        acl.0
            .extend(more.into_iter().map(|(who, permission)| Grant {
                who: who.to_owned(),
                permission,
            }));
        Ok(Some(acl))
    }

    /// Who owns an object that this caller puts into a bucket, if not the bucket's owner, and its list,
    /// if it isn't the plain one.
    pub fn of_object(
        &self,
        bucket: &Bucket,
        caller: Option<&str>,
        blocks_public: bool,
    ) -> S3Result<(Option<String>, Option<Acl>)> {
        let of_bucket = canonical(&bucket.owner);
        let kept = self.is_canned("bucket-owner-full-control");
        let owner = match bucket.config.ownership {
            Ownership::BucketOwnerEnforced => {
                // "or equivalent forms of this ACL" (AWS, "Disabling ACLs for all new buckets").
                let all = Grant {
                    who: of_bucket,
                    permission: Permission::FullControl,
                };
                let same = self.grants.as_ref().is_none_or(|grants| *grants == [all]);
                // The owner's own is the same as what there is.
                let own = caller == Some(bucket.owner.as_str()) && self.is_canned("private");
                let fine = same && (self.canned.is_none() || kept || own);
                return if fine {
                    Ok((None, None))
                } else {
                    Err(disabled())
                };
            }
            Ownership::BucketOwnerPreferred if kept => of_bucket.clone(),
            _ => caller.map_or(ANONYMOUS.to_owned(), canonical),
        };
        let acl = self.of_owned(&owner, &of_bucket)?;
        if blocks_public && acl.as_ref().is_some_and(Acl::is_public) {
            return Err(blocked());
        }
        let plain = Acl::private(&owner);
        Ok((
            (owner != of_bucket).then_some(owner),
            acl.filter(|acl| *acl != plain),
        ))
    }
}

fn limited(grants: Vec<Grant>) -> S3Result<Acl> {
    match grants.len() <= MOST_GRANTS {
        true => Ok(Acl(grants)),
        false => Err(s3_error!(
            MalformedACLError,
            "The request specified too many grants"
        )),
    }
}

/// `id="…", uri="…"`
fn grantees(value: &str, exists: impl Fn(&str) -> bool) -> S3Result<Vec<String>> {
    let one = |part: &str| {
        let (kind, value) = part
            .trim()
            .split_once('=')
            .ok_or_else(|| s3_error!(InvalidArgument, "Argument format not recognized"))?;
        let value = value.trim().trim_matches('"').to_owned();
        match kind.trim().to_ascii_lowercase().as_str() {
            "id" => user(value, &exists),
            "uri" => group(value),
            "emailaddress" => Err(by_email()),
            _ => Err(s3_error!(InvalidArgument, "Argument format not recognized")),
        }
    };
    value.split(',').map(one).collect()
}

fn user(id: String, exists: impl Fn(&str) -> bool) -> S3Result<String> {
    match exists(&id) {
        true => Ok(id),
        false => Err(s3_error!(InvalidArgument, "Invalid id")),
    }
}

fn group(uri: String) -> S3Result<String> {
    match [ALL_USERS, AUTHENTICATED_USERS, LOG_DELIVERY].contains(&uri.as_str()) {
        true => Ok(uri),
        false => Err(s3_error!(InvalidArgument, "Invalid group uri")),
    }
}

/// As at AWS since October 2025.
fn by_email() -> S3Error {
    s3_error!(
        MethodNotAllowed,
        "Grants by e-mail address are not supported: name the grantee by its canonical user id."
    )
}

/// A list as XML says it; who owns what it is about doesn't change by it.
pub fn of_xml(
    policy: dto::AccessControlPolicy,
    owner: &str,
    exists: impl Fn(&str) -> bool,
) -> S3Result<Acl> {
    let malformed = || {
        s3_error!(
            MalformedACLError,
            "The XML you provided was not well-formed or did not validate against our published schema"
        )
    };
    let said = policy
        .owner
        .and_then(|owner| owner.id)
        .ok_or_else(malformed)?;
    if said != owner {
        return Err(denied());
    }
    let mut grants = Vec::new();
    for grant in policy.grants.unwrap_or_default() {
        let grantee = grant.grantee.ok_or_else(malformed)?;
        let permission = grant.permission.as_ref().map(|it| it.as_str());
        let permission = permission
            .and_then(Permission::named)
            .ok_or_else(malformed)?;
        let who = match (grantee.id, grantee.uri, grantee.email_address) {
            (Some(id), None, None) => user(id, &exists)?,
            (None, Some(uri), None) => group(uri)?,
            (None, None, Some(_)) => return Err(by_email()),
            _ => return Err(malformed()),
        };
        grants.push(Grant { who, permission });
    }
    limited(grants)
}

/// A list that lets everybody in, where the public access block doesn't let that be.
pub fn blocked() -> S3Error {
    s3_error!(
        AccessDenied,
        "Access Denied: the bucket's public access block (BlockPublicAcls) prevents public ACLs."
    )
}

/// The error of a bucket whose ACLs are off.
pub fn disabled() -> S3Error {
    s3_error!(
        AccessControlListNotSupported,
        "The bucket does not allow ACLs"
    )
}

/// A bucket can't have one that lets others in, as long as its ACLs are off.
pub fn with_enforced() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::InvalidBucketAclWithObjectOwnership,
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
    )
}

pub fn with_block() -> S3Error {
    custom(
        "InvalidBucketAclWithBlockPublicAccessError",
        StatusCode::BAD_REQUEST,
        "Bucket cannot have public ACLs set with BlockPublicAccess enabled",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    fn wish(pairs: &[(&'static str, &str)]) -> Result<Wish, String> {
        let exists = |id: &str| id == canonical("1") || id == canonical("2");
        Wish::of(&headers(pairs), exists).map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn canned_lists() {
        let allowed = |canned: &str, account: Option<&str>, wanted| {
            let acl = wish(&[("x-amz-acl", canned)])
                .unwrap()
                .of_bucket(&canonical("1"));
            acl.unwrap().unwrap().allows(account, wanted, true)
        };
        for canned in [
            "private",
            "public-read",
            "aws-exec-read",
            "log-delivery-write",
        ] {
            assert!(allowed(canned, Some("1"), Permission::WriteAcp), "{canned}");
            assert!(!allowed(canned, Some("2"), Permission::Write), "{canned}");
        }
        assert!(allowed("public-read", None, Permission::Read));
        assert!(!allowed("public-read", None, Permission::Write));
        assert!(allowed("public-read-write", None, Permission::Write));
        assert!(!allowed("authenticated-read", None, Permission::Read));
        assert!(allowed("authenticated-read", Some("2"), Permission::Read));
        let public = wish(&[("x-amz-acl", "public-read")]).unwrap();
        let public = public.of_bucket(&canonical("1")).unwrap().unwrap();
        assert!(public.is_public());
        assert!(!public.allows(None, Permission::Read, false));
        let of_owner = wish(&[("x-amz-acl", "bucket-owner-read")]).unwrap();
        assert_eq!(of_owner.of_bucket("x").unwrap(), Some(Acl::private("x")));
        assert!(
            wish(&[("x-amz-acl", "everybody")])
                .unwrap()
                .of_bucket("x")
                .is_err()
        );
    }

    #[test]
    fn grants_in_headers() {
        let id = canonical("2");
        let spelt = format!("id=\"{id}\", uri=\"{AUTHENTICATED_USERS}\"");
        let acl = wish(&[("x-amz-grant-read", &spelt)])
            .unwrap()
            .of_bucket("x")
            .unwrap()
            .unwrap();
        assert_eq!(acl.0.len(), 2);
        assert!(acl.allows(Some("2"), Permission::Read, false));
        assert!(!acl.allows(Some("1"), Permission::Read, false));
        for (value, code) in [
            ("id=\"nobody\"", "InvalidArgument"),
            ("uri=\"http://example.org/all\"", "InvalidArgument"),
            ("name=x", "InvalidArgument"),
            ("x", "InvalidArgument"),
            ("emailAddress=\"a@b.c\"", "MethodNotAllowed"),
        ] {
            assert_eq!(
                wish(&[("x-amz-grant-write", value)]),
                Err(code.into()),
                "{value}"
            );
        }
        let both = wish(&[("x-amz-acl", "private"), ("x-amz-grant-read", &spelt)]);
        assert_eq!(both, Err("InvalidRequest".into()));
    }
}
