//! Browsers' forms (AWS, "POST Object"): fields until the file begins, whose bytes then stream into the
//! store like those of any other upload.

mod policy;

use crate::Store;
use crate::access;
use crate::authorize::{Asked, Client};
use crate::beyond;
use crate::error::{
    custom, internal, malformed, no_length, no_tokens, other_signature, too_slow, unknown_key,
};
use crate::front::Besides;
use crate::signed::{Query, mac_of_version_2};
use crate::tagging::{Tagged, encoded_tags, judged_set};
use boira_api::sigv4;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use multer::{Field, Multipart};
use policy::Policy;
use s3s::dto::*;
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Result, StdError, s3_error};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Bytes of the fields before the file (AWS, "POST Object", "Restrictions").
const FIELD_BYTES: usize = 20 << 10;

/// Bytes around the file, with the lines between the fields.
const AROUND_BYTES: usize = 64 << 10;
/// How long they may take.
const FIELDS_TAKE: Duration = Duration::from_secs(30);

/// Bounds what is read before and after the file: multer holds all of it until it has found what it looks
/// for.
#[derive(Clone, Default)]
struct Head(Arc<AtomicUsize>);

/// While the file passes, nothing is counted.
const IN_FILE: usize = usize::MAX;

impl Head {
    fn watch(&self, body: Body) -> impl Stream<Item = Result<Bytes, StdError>> + Send + 'static {
        let count = self.0.clone();
        body.into_data_stream().map(move |piece| {
            let piece = piece?;
            let before = count.load(Ordering::Relaxed);
            if before == IN_FILE {
                return Ok(piece);
            }
            if before > AROUND_BYTES {
                return Err("too much of a form".into());
            }
            count.store(before + piece.len(), Ordering::Relaxed);
            Ok(piece)
        })
    }

    fn begins(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn ends(&self) {
        self.0.store(IN_FILE, Ordering::Relaxed);
    }
}

/// How many bytes a form's file may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub least: u64,
    pub most: u64,
}

/// The fields of a form, by their names in lower case.
struct Fields(BTreeMap<String, String>);

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn wanted(&self, name: &str) -> S3Result<&str> {
        self.get(name).ok_or_else(|| {
            S3Error::with_message(
                S3ErrorCode::InvalidArgument,
                format!(
                    "Bucket POST must contain a field named '{name}'.  If it is specified, please check the order of the fields."
                ),
            )
        })
    }
}

pub fn not_a_form() -> S3Error {
    custom(
        "PreconditionFailed",
        StatusCode::PRECONDITION_FAILED,
        "At least one of the pre-conditions you specified did not hold: Bucket POST must be of the enclosure-type multipart/form-data",
    )
}

fn no_form(_: impl std::fmt::Display) -> S3Error {
    custom(
        "MalformedPOSTRequest",
        StatusCode::BAD_REQUEST,
        "The body of your POST request is not well-formed multipart/form-data.",
    )
}

fn too_many_fields() -> S3Error {
    custom(
        "MaxPostPreDataLengthExceededError",
        StatusCode::BAD_REQUEST,
        "Your POST request fields preceding the upload file were too large.",
    )
}

/// Answers a form that was sent to a bucket.
pub async fn post(
    store: &Arc<Store>,
    request: Request<Body>,
    bucket: String,
) -> S3Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let kind = parts.headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(no_form)?;
    let length = parts.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let length = length.ok_or_else(no_length)?;
    let head = Head::default();
    let mut form = Multipart::new(head.watch(body), boundary);
    let read = fields_and_file(&mut form);
    let read = tokio::time::timeout(FIELDS_TAKE, read).await;
    let (fields, file) = read.map_err(|_| too_slow())??;
    head.ends();
    let client = parts.extensions.get::<Client>().copied();
    let (account, allowed) = signed_by(store, &fields, &bucket, client)?;
    let limits = Limits {
        least: allowed.0,
        most: allowed.1.min(length),
    };
    let put = put(&bucket, &fields, account, client)?;
    let outcome = put.run(store, file, limits).await?;
    // What comes after the file counts for nothing, and is read so that the connection can go on.
    head.begins();
    let rest = async {
        while let Ok(Some(mut rest)) = form.next_field().await {
            while let Ok(Some(_)) = rest.chunk().await {}
        }
    };
    let _ = tokio::time::timeout(FIELDS_TAKE, rest).await;
    Ok(answer(store, &bucket, &fields, outcome))
}

/// Fields until the file, whose name takes the place of `${filename}` in all of them.
async fn fields_and_file(form: &mut Multipart<'static>) -> S3Result<(Fields, Field<'static>)> {
    let mut fields = BTreeMap::new();
    let mut left = FIELD_BYTES;
    while let Some(mut field) = form.next_field().await.map_err(no_form)? {
        let name = field.name().unwrap_or_default().to_ascii_lowercase();
        if name == "file" {
            let path = field.file_name().unwrap_or_default().to_owned();
            // What browsers give may be a path; AWS takes what follows the last separator.
            let base = path.rsplit(['/', '\\']).next().unwrap_or_default();
            fill(&mut fields, base)?;
            return Ok((Fields(fields), field));
        }
        let mut value = Vec::new();
        while let Some(piece) = field.chunk().await.map_err(no_form)? {
            left = left.checked_sub(piece.len()).ok_or_else(too_many_fields)?;
            value.extend_from_slice(&piece);
        }
        left = left.checked_sub(name.len()).ok_or_else(too_many_fields)?;
        let value = String::from_utf8(value).map_err(no_form)?;
        fields.insert(name, value);
    }
    Err(s3_error!(
        InvalidArgument,
        "POST requires exactly one file upload per request."
    ))
}

/// Puts the file's name where `${filename}` is. What comes of it is bounded as the fields were.
fn fill(fields: &mut BTreeMap<String, String>, base: &str) -> S3Result<()> {
    const PLACE: &str = "${filename}";
    let filled = |value: &String| {
        let places = value.matches(PLACE).count();
        value.len() + places * base.len() - places * PLACE.len()
    };
    if fields.values().map(filled).sum::<usize>() > FIELD_BYTES {
        return Err(too_many_fields());
    }
    for value in fields.values_mut() {
        *value = value.replace(PLACE, base);
    }
    Ok(())
}

/// Whose form it is, by the signature of its policy, and the lengths that the policy allows.
fn signed_by(
    store: &Store,
    fields: &Fields,
    bucket: &str,
    client: Option<Client>,
) -> S3Result<(Option<String>, (u64, u64))> {
    fields.wanted("key")?;
    if fields.get("x-amz-security-token").is_some() {
        return Err(no_tokens());
    }
    let is_signed = ["policy", "signature", "x-amz-signature", "awsaccesskeyid"];
    if !is_signed.iter().any(|name| fields.get(name).is_some()) {
        store.count(None, client)?;
        return Ok((None, (0, u64::MAX)));
    }
    let encoded = fields.wanted("policy")?;
    let of_v2 = fields.get("awsaccesskeyid").is_some() || fields.get("signature").is_some();
    let account = match of_v2 {
        true => verified_v2(store, fields, encoded)?,
        false => verified_v4(store, fields, encoded)?,
    };
    let credential = fields
        .get("awsaccesskeyid")
        .or_else(|| fields.get("x-amz-credential"));
    let key = credential.and_then(|credential| credential.split('/').next());
    store.count(key, client)?;
    let policy = Policy::parse(encoded)?;
    let lengths = policy.allows(&fields.0, bucket, (store.clock)())?;
    Ok((Some(account), lengths))
}

fn verified_v2(store: &Store, fields: &Fields, policy: &str) -> S3Result<String> {
    let access_key = fields.wanted("awsaccesskeyid")?;
    let signature = fields.wanted("signature")?;
    let (account, secret) = store.cloud.find(access_key).ok_or_else(unknown_key)?;
    let wanted = mac_of_version_2(&secret, policy);
    match bool::from(wanted.as_bytes().ct_eq(signature.as_bytes())) {
        true => Ok(account),
        false => Err(other_signature()),
    }
}

fn verified_v4(store: &Store, fields: &Fields, policy: &str) -> S3Result<String> {
    let algorithm = fields.wanted("x-amz-algorithm")?;
    let credential = fields.wanted("x-amz-credential")?;
    let date = fields.wanted("x-amz-date")?;
    let signature = fields.wanted("x-amz-signature")?;
    let invalid = |what: &'static str| s3_error!(InvalidArgument, "{what}");
    if algorithm != "AWS4-HMAC-SHA256" {
        return Err(invalid(
            "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"",
        ));
    }
    let scope = sigv4::parse_credential(credential)
        .ok_or_else(|| invalid("The X-Amz-Credential field is malformed."))?;
    if scope.region != store.settings.region || scope.service != "s3" {
        return Err(invalid(
            "The X-Amz-Credential field is of another region or service.",
        ));
    }
    if date.get(..8) != Some(&scope.date) {
        return Err(invalid(
            "The X-Amz-Credential field is of another day than X-Amz-Date.",
        ));
    }
    let found = store.cloud.find(&scope.access_key);
    let (account, secret) = found.ok_or_else(unknown_key)?;
    let wanted = sigv4::mac(&secret, &scope, policy.as_bytes());
    let signature = hex::decode(signature).unwrap_or_default();
    match bool::from(wanted[..].ct_eq(&signature)) {
        true => Ok(account),
        false => Err(other_signature()),
    }
}

/// A form as the PutObject that it amounts to.
struct Put {
    bucket: String,
    key: String,
    account: Option<String>,
    client: Option<Client>,
    headers: HeaderMap,
}

/// Fields that are headers of other requests by the same names.
const HEADERS: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-type",
    "expires",
];
/// Fields that belong to the signature.
const OF_SIGNATURE: [&str; 4] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-signature",
];

fn put(
    bucket: &str,
    fields: &Fields,
    account: Option<String>,
    client: Option<Client>,
) -> S3Result<Put> {
    let mut headers = HeaderMap::new();
    let mut set = |name: &str, value: &str| -> S3Result<()> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(no_form)?;
        let value = HeaderValue::from_str(value).map_err(|_| {
            S3Error::with_message(
                S3ErrorCode::InvalidArgument,
                format!("The field {name} has a value that no header can have."),
            )
        })?;
        headers.insert(name, value);
        Ok(())
    };
    for (name, value) in &fields.0 {
        let is_header = name.starts_with("x-amz-") || HEADERS.contains(&name.as_str());
        match name.as_str() {
            "acl" => set("x-amz-acl", value)?,
            "tagging" => set("x-amz-tagging", &tagging(value)?)?,
            _ if OF_SIGNATURE.contains(&name.as_str()) => {}
            _ if is_header => set(name, value)?,
            _ => {}
        }
    }
    Ok(Put {
        bucket: bucket.to_owned(),
        key: fields.wanted("key")?.to_owned(),
        account,
        client,
        headers,
    })
}

/// The field `tagging`, which is XML, as the header that says the same.
fn tagging(text: &str) -> S3Result<String> {
    use s3s::xml::{Deserialize, Deserializer};
    let mut reader = Deserializer::new(text.as_bytes());
    let tagging = Tagging::deserialize(&mut reader).map_err(|_| malformed())?;
    Ok(encoded_tags(&judged_set(tagging.tag_set, Tagged::Object)?))
}

impl Put {
    async fn run(
        self,
        store: &Arc<Store>,
        file: Field<'static>,
        limits: Limits,
    ) -> S3Result<(PutObjectOutput, Besides)> {
        let query = Query::of("")?;
        let asked = Asked {
            operation: "PutObject",
            bucket: Some(&self.bucket),
            key: Some(&self.key),
            headers: &self.headers,
            query: &query,
            client: self.client,
            account: self.account.as_deref(),
        };
        let (acting, _) = access::admitted(store, &asked).await?;
        let utf8 = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).ok();
        let text = |name: &str| self.headers.get(name).and_then(utf8);
        let time = |name: &str, format| {
            text(name)
                .map(|value| Timestamp::parse(format, &value).map_err(no_form))
                .transpose()
        };
        let meta = self.headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-amz-meta-")?;
            Some((name.to_owned(), utf8(value)?))
        });
        let mut extensions = Extensions::new();
        let input = PutObjectInput {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            body: Some(StreamingBlob::new(File(Mutex::new(file)))),
            cache_control: text("cache-control"),
            content_disposition: text("content-disposition"),
            content_encoding: text("content-encoding"),
            content_type: text("content-type"),
            expires: text("expires").map(|value| beyond::expires(&mut extensions, value)),
            metadata: Some(meta.collect()),
            storage_class: text("x-amz-storage-class").map(StorageClass::from),
            tagging: text("x-amz-tagging"),
            website_redirect_location: text("x-amz-website-redirect-location"),
            object_lock_mode: text("x-amz-object-lock-mode").map(ObjectLockMode::from),
            object_lock_legal_hold_status: text("x-amz-object-lock-legal-hold")
                .map(ObjectLockLegalHoldStatus::from),
            object_lock_retain_until_date: time(
                "x-amz-object-lock-retain-until-date",
                TimestampFormat::DateTime,
            )?,
            ..Default::default()
        };
        let besides = Besides::default();
        access::note(&mut extensions, acting, self.account);
        extensions.insert(besides.clone());
        extensions.insert(limits);
        let request = S3Request {
            input,
            method: http::Method::POST,
            uri: Uri::default(),
            headers: self.headers,
            extensions,
            credentials: None,
            region: None,
            service: None,
            trailing_headers: None,
        };
        // In a task of its own: what was begun is finished, also when its client is gone.
        let store = store.clone();
        let task = tokio::spawn(async move { store.put_object(request).await });
        let output = task.await.map_err(internal)??;
        Ok((output, besides))
    }
}

/// The form's file. A stream of s3s's can be shared between threads, which multer's can't: the lock is
/// never waited for.
struct File(Mutex<Field<'static>>);

impl Stream for File {
    type Item = Result<Bytes, StdError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let field = self.get_mut().0.get_mut();
        let field = field.expect("no holder of this lock panics");
        field.poll_next_unpin(cx).map_err(StdError::from)
    }
}

impl ByteStream for File {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::unknown()
    }
}

fn answer(
    store: &Store,
    bucket: &str,
    fields: &Fields,
    (output, besides): (PutObjectOutput, Besides),
) -> Response<Body> {
    let key = fields.get("key").unwrap_or_default();
    let tag = output.e_tag.map(ETag::into_value).unwrap_or_default();
    let place = format!(
        "{}/{bucket}/{}",
        store.settings.endpoint,
        crate::listing::encoded(key)
    );
    let mut response = Response::new(Body::empty());
    besides.add_to(&mut response);
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("etag", &format!("\"{tag}\""));
    set("location", &place);
    if let Some(version) = &output.version_id {
        set("x-amz-version-id", version);
    }
    let redirect = fields
        .get("success_action_redirect")
        .or_else(|| fields.get("redirect"));
    let redirect = redirect.and_then(|url| redirected(url, bucket, key, &tag));
    if let Some(url) = redirect {
        response.headers_mut().insert(LOCATION, url);
        *response.status_mut() = StatusCode::SEE_OTHER;
        return response;
    }
    match fields.get("success_action_status") {
        Some("200") => {}
        Some("201") => {
            *response.status_mut() = StatusCode::CREATED;
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            let escaped = crate::front::escaped;
            let text = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse><Location>{}</Location><Bucket>{bucket}</Bucket><Key>{}</Key><ETag>\"{tag}\"</ETag></PostResponse>",
                escaped(&place),
                escaped(key)
            );
            *response.body_mut() = Body::from(Bytes::from(text));
        }
        _ => *response.status_mut() = StatusCode::NO_CONTENT,
    }
    response
}

/// Where a browser is sent then; `None` if that is no address.
fn redirected(url: &str, bucket: &str, key: &str, tag: &str) -> Option<HeaderValue> {
    let address: Uri = url.parse().ok()?;
    address.scheme()?;
    let joint = if address.query().is_some() { '&' } else { '?' };
    let key = crate::listing::encoded(key).replace('/', "%2F");
    HeaderValue::from_str(&format!(
        "{url}{joint}bucket={bucket}&key={key}&etag=%22{tag}%22"
    ))
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_browser_is_sent() {
        let sent =
            |url| redirected(url, "b", "a b/ü", "e").map(|it| it.to_str().unwrap().to_owned());
        let query = "bucket=b&key=a%20b%2F%C3%BC&etag=%22e%22";
        assert_eq!(sent("http://x/y"), Some(format!("http://x/y?{query}")));
        assert_eq!(
            sent("http://x/y?z=1"),
            Some(format!("http://x/y?z=1&{query}"))
        );
        assert_eq!(sent("y"), None);
        assert_eq!(sent("not an address"), None);
    }

    #[test]
    fn a_files_name_fills_no_more_than_a_form_may_hold() {
        let fields = |value: String| BTreeMap::from([("key".to_owned(), value)]);
        let mut few = fields("a/${filename}/${filename}".into());
        fill(&mut few, "b.txt").unwrap();
        assert_eq!(few, fields("a/b.txt/b.txt".into()));
        let mut many = fields("${filename}".repeat(1800));
        let error = fill(&mut many, &"x".repeat(40 << 10)).unwrap_err();
        assert_eq!(error.code().as_str(), "MaxPostPreDataLengthExceededError");
        assert_eq!(
            many,
            fields("${filename}".repeat(1800)),
            "nothing is filled"
        );
    }

    #[test]
    fn tags_of_a_form() {
        let xml =
            "<Tagging><TagSet><Tag><Key>a b</Key><Value>1&amp;2</Value></Tag></TagSet></Tagging>";
        assert!(tagging(xml).is_err(), "& is no letter of a tag");
        let xml = "<Tagging><TagSet><Tag><Key>a b</Key><Value>1+2</Value></Tag></TagSet></Tagging>";
        assert_eq!(tagging(xml).unwrap(), "a%20b=1%2B2");
        assert!(tagging("a=b").is_err());
    }
}
