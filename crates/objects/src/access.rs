//! Who asks: access keys of the cloud's accounts, the accounts as owners, and headers that ask for what
//! isn't there.

use crate::Store;
use crate::acl::EC2;
use crate::authorize::{self, Asked, Client, Judge, OfSource};
use crate::encryption;
use crate::error::{custom, denied, no_length, no_tokens, unknown_key};
use crate::metrics::Operation;
use crate::signed::{self, Query};
use async_trait::async_trait;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::Owner;
use s3s::path::S3Path;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// What the object store asks of the cloud that it is part of.
pub trait Cloud: Send + Sync + 'static {
    /// The account that an access key belongs to, and its secret.
    fn find(&self, access_key: &str) -> Option<(String, String)>;

    /// The account that a canonical user id belongs to.
    fn account_of(&self, canonical: &str) -> Option<String>;

    /// The administrator's rules, as they are now.
    fn rules(&self) -> Rules;
}

/// What an administrator decides for the whole object store.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The domain below which every bucket has a name, if there is one.
    pub domain: Option<String>,
    /// Whether new buckets have ACLs, and no public access block, as AWS's had before April 2023.
    pub acls: bool,
    /// The same for those that are made as Eucalyptus' were.
    pub walrus_acls: bool,
    /// Whether everything is encrypted that doesn't say otherwise.
    pub encryption: bool,
    /// Requests of an access key in a second; 0 for any number.
    pub requests_per_second: u64,
}

/// The account that a request acts for.
#[derive(Clone)]
struct Account(String);

/// The same for the source of a copy.
#[derive(Clone)]
struct Source(String);

pub fn source_account(extensions: &Extensions) -> S3Result<String> {
    match extensions.get::<Source>() {
        Some(Source(account)) => Ok(account.clone()),
        None => account(extensions),
    }
}

/// A request's extensions as they are when that account asks.
#[cfg(test)]
pub fn asked_by(account: &str) -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(Account(account.to_owned()));
    extensions
}

pub fn account(extensions: &Extensions) -> S3Result<String> {
    match extensions.get::<Account>() {
        Some(Account(account)) => Ok(account.clone()),
        None => Err(denied()),
    }
}

/// Notes who asks, and for whom that counts.
pub fn note(extensions: &mut Extensions, acting: String, caller: Option<String>) {
    extensions.insert(Account(acting));
    extensions.insert(Asker(caller));
}

/// Who asks, whoever it acts for: `None` for who has no key.
#[derive(Clone)]
struct Asker(Option<String>);

pub fn caller(extensions: &Extensions) -> Option<String> {
    match extensions.get::<Asker>() {
        Some(Asker(account)) => account.clone(),
        None => account(extensions).ok(),
    }
}

/// The canonical user id of an account: 64 hexadecimal digits, as AWS's are.
pub fn canonical(account: &str) -> String {
    hex::encode(Sha256::digest(account.as_bytes()))
}

/// An account as owner.
pub fn owner(account: &str) -> Owner {
    named_owner(&canonical(account), Some(account.to_owned()))
}

pub fn named_owner(id: &str, account: Option<String>) -> Owner {
    let name = match id {
        EC2 => Some("za-team".to_owned()),
        _ => account,
    };
    Owner {
        display_name: name,
        id: Some(id.to_owned()),
    }
}

pub struct Gate(pub Arc<Store>);

#[async_trait]
impl S3Auth for Gate {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.cloud.find(access_key) {
            Some((_, secret)) => Ok(SecretKey::from(secret)),
            None => Err(unknown_key()),
        }
    }
}

#[async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = cx.s3_op().name().to_owned();
        if let Some(noted) = cx.extensions_mut().get::<Operation>() {
            noted.set(&operation);
        }
        let account = match cx.credentials() {
            None => None,
            Some(credentials) => {
                let found = self.0.cloud.find(&credentials.access_key);
                Some(found.ok_or_else(denied)?.0)
            }
        };
        let client = cx.extensions_mut().get::<Client>().copied();
        let key = cx.credentials().map(|it| it.access_key.as_str());
        self.0.count(key, client)?;
        let query = Query::of(cx.uri().query().unwrap_or_default())?;
        signed::check_scope(cx.headers(), &query, &self.0.settings.region)?;
        signed::check_date(cx.headers(), &query, (self.0.clock)())?;
        signed::check_query(&query, account.is_some())?;
        if cx.headers().contains_key("x-amz-security-token") {
            return Err(no_tokens());
        }
        let (bucket, key) = match cx.s3_path() {
            S3Path::Root => (None, None),
            S3Path::Bucket { bucket } => (Some(&**bucket), None),
            S3Path::Object { bucket, key } => (Some(&**bucket), Some(&**key)),
        };
        let asked = Asked {
            operation: cx.s3_op().name(),
            bucket,
            key,
            headers: cx.headers(),
            query: &query,
            client,
            account: account.as_deref(),
        };
        let (acting, judge) = admitted(&self.0, &asked).await?;
        check_stranger(asked.operation, asked.account)?;
        check_length(asked.headers, asked.operation)?;
        let source = authorize::acting_for_source(&self.0, &asked).await?;
        if let Some((source, _)) = &source {
            check_source(asked.headers, source)?;
        }
        let extensions = cx.extensions_mut();
        if let Some((source, judge)) = source {
            extensions.insert(Source(source));
            if let Some(judge) = judge {
                extensions.insert(OfSource(judge));
            }
        }
        if let Some(judge) = judge {
            extensions.insert(judge);
        }
        note(extensions, acting, account);
        Ok(())
    }
}

/// Lets a request in, or not: for whom it acts then, and who judges what it does on the way.
pub async fn admitted(store: &Arc<Store>, asked: &Asked<'_>) -> S3Result<(String, Option<Judge>)> {
    let (acting, judge) = authorize::acting(store, asked).await?;
    check_headers(asked.headers, &acting)?;
    encryption::check_headers(asked.headers, asked.operation)?;
    encryption::check_transport(asked.headers, asked.client)?;
    Ok((acting, judge))
}

fn check_source(headers: &HeaderMap, owner: &str) -> S3Result<()> {
    match headers.get("x-amz-source-expected-bucket-owner") {
        Some(expected) => check_expected(expected, owner),
        None => Ok(()),
    }
}

/// Whether a bucket is whose the request says it is.
fn check_expected(expected: &HeaderValue, owner: &str) -> S3Result<()> {
    let expected = expected.as_bytes();
    if expected.len() != 12 || !expected.iter().all(u8::is_ascii_digit) {
        return Err(custom(
            "InvalidBucketOwnerAWSAccountID",
            StatusCode::BAD_REQUEST,
            "The value of the expected bucket owner parameter must be an AWS account ID",
        ));
    }
    match expected == owner.as_bytes() {
        true => Ok(()),
        false => Err(denied()),
    }
}

/// What who has no key may not do, whoever lets everybody in.
fn check_stranger(operation: &str, account: Option<&str>) -> S3Result<()> {
    let refused = |what: &str| {
        let why = format!("Anonymous users cannot {what}. Please authenticate.");
        Err(S3Error::with_message(S3ErrorCode::AccessDenied, why))
    };
    match (account, operation) {
        (None, "CopyObject" | "UploadPartCopy") => refused("copy objects"),
        (None, "CreateMultipartUpload") => refused("initiate multipart uploads"),
        _ => Ok(()),
    }
}

/// What is put says how long it is, or comes in chunks.
fn check_length(headers: &HeaderMap, operation: &str) -> S3Result<()> {
    let says = |name: &str| headers.contains_key(name);
    let puts = ["PutObject", "UploadPart"].contains(&operation);
    match puts && !says("content-length") && !says("transfer-encoding") {
        true => Err(no_length()),
        false => Ok(()),
    }
}

/// No option is ignored: what a header asks for is there, or is refused.
fn check_headers(headers: &HeaderMap, owner: &str) -> S3Result<()> {
    let expected = headers.get("x-amz-expected-bucket-owner");
    if let Some(expected) = expected {
        check_expected(expected, owner)?;
    }
    const UNAVAILABLE: [(&str, &str); 3] = [
        ("x-amz-write-offset-bytes", "Objects can't be appended to"),
        (
            "x-amz-object-lock-event-hold",
            "Objects have no event holds",
        ),
        ("x-amz-object-annotation", "Objects have no annotations"),
    ];
    let named = |start: &str| headers.keys().any(|name| name.as_str().starts_with(start));
    if let Some((_, why)) = UNAVAILABLE.iter().find(|(start, _)| named(start)) {
        return Err(unavailable(why));
    }
    match headers
        .get("x-amz-bucket-namespace")
        .map(HeaderValue::as_bytes)
    {
        None | Some(b"global") => Ok(()),
        Some(b"account-regional") => Err(unavailable("Buckets have one namespace")),
        Some(_) => Err(s3_error!(
            InvalidArgument,
            "The value of the x-amz-bucket-namespace header is invalid."
        )),
    }
}

pub fn unavailable(what: &str) -> S3Error {
    S3Error::with_message(
        S3ErrorCode::NotImplemented,
        format!("A header you provided implies functionality that is not implemented. {what}."),
    )
}
