//! Server-side encryption: what requests ask of it, what a bucket does without being asked, and which key
//! opens what (AWS, "Using server-side encryption with Amazon S3 managed keys" and "… with
//! customer-provided keys").

use crate::Store;
use crate::access::{account, unavailable};
use crate::authorize::Client;
use crate::crypt::{Key, Lock};
use crate::error::{custom, denied, malformed};
use crate::front::Besides;
use crate::rows::{About, Bucket, Upload};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Result, s3_error};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const AES256: &str = "AES256";
/// Operations whose headers say how to encrypt.
const WRITING: [&str; 3] = ["CopyObject", "CreateMultipartUpload", "PutObject"];
/// Operations for which a client's key is needed.
const KEYED: [&str; 8] = [
    "CompleteMultipartUpload",
    "GetObject",
    "GetObjectAttributes",
    "HeadObject",
    "ListParts",
    "SelectObjectContent",
    "UploadPart",
    "UploadPartCopy",
];

/// How an object's bytes are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    #[serde(rename = "m")]
    Master,
    /// By a client's key, of which this is [`Key::check`].
    #[serde(rename = "c")]
    Customer(String),
}

/// What headers of encryption an operation may have at all.
pub fn check_headers(headers: &HeaderMap, operation: &str) -> S3Result<()> {
    let (writing, keyed) = (WRITING.contains(&operation), KEYED.contains(&operation));
    for name in headers.keys().map(http::HeaderName::as_str) {
        let Some(rest) = name.strip_prefix("x-amz-") else {
            continue;
        };
        let about_key = rest.starts_with("server-side-encryption-customer-");
        if rest.starts_with("server-side-encryption") && !writing && !(keyed && about_key) {
            return Err(S3Error::with_message(
                s3s::S3ErrorCode::InvalidArgument,
                format!("{name} header is not supported for this operation."),
            ));
        }
    }
    Ok(())
}

/// A client's key is a secret on the way, too (AWS refuses it without TLS). Without TLS, this machine's
/// loopback is all that is listened on.
pub fn check_transport(headers: &HeaderMap, client: Option<Client>) -> S3Result<()> {
    let has_key = headers.keys().any(|name| {
        name.as_str()
            .contains("server-side-encryption-customer-key")
    });
    let open = client.is_some_and(|client| client.tls.is_none() && !client.address.is_loopback());
    match has_key && open {
        true => Err(s3_error!(
            InvalidRequest,
            "Requests specifying Server Side Encryption with Customer provided keys must be made over a secure connection."
        )),
        false => Ok(()),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get(name)
        .map(|value| value.to_str().unwrap_or_default())
}

/// The key that a client sends with a request, whole and undamaged.
pub fn customer_key(headers: &HeaderMap) -> S3Result<Option<Key>> {
    key_of(headers, "x-amz-server-side-encryption-customer-")
}

/// The same for the source of a copy.
pub fn source_key(headers: &HeaderMap) -> S3Result<Option<Key>> {
    key_of(
        headers,
        "x-amz-copy-source-server-side-encryption-customer-",
    )
}

fn key_of(headers: &HeaderMap, prefix: &str) -> S3Result<Option<Key>> {
    let named = |name: &str| text(headers, &format!("{prefix}{name}"));
    let (algorithm, key, md5) = (named("algorithm"), named("key"), named("key-md5"));
    if algorithm.is_none() && key.is_none() && md5.is_none() {
        return Ok(None);
    }
    let missing = |what: &str| {
        S3Error::with_message(
            s3s::S3ErrorCode::InvalidArgument,
            format!(
                "Requests specifying Server Side Encryption with Customer provided keys must provide {what}."
            ),
        )
    };
    let algorithm = algorithm.ok_or_else(|| missing("a valid encryption algorithm"))?;
    let key = key.ok_or_else(|| missing("an appropriate secret key"))?;
    let md5 = md5.ok_or_else(|| missing("the client calculated MD5 of the secret key"))?;
    if algorithm != AES256 {
        return Err(unknown_algorithm());
    }
    let key = STANDARD.decode(key).ok().and_then(|key| Key::of(&key));
    let key = key.ok_or_else(|| {
        s3_error!(
            InvalidArgument,
            "The secret key was invalid for the specified algorithm."
        )
    })?;
    match key.md5() == md5 {
        true => Ok(Some(key)),
        false => Err(s3_error!(
            InvalidArgument,
            "The calculated MD5 hash of the key did not match the hash that was provided."
        )),
    }
}

fn unknown_algorithm() -> S3Error {
    custom(
        "InvalidEncryptionAlgorithmError",
        StatusCode::BAD_REQUEST,
        "The Encryption request you specified is not valid. Supported value: AES256.",
    )
}

/// What a request that writes says of encryption.
#[derive(Clone)]
pub struct Wish {
    own: Option<Key>,
    asked: bool,
}

impl Wish {
    pub fn of(headers: &HeaderMap) -> S3Result<Self> {
        let own = customer_key(headers)?;
        let by_service = |name: &str| text(headers, &format!("x-amz-server-side-encryption{name}"));
        match (by_service(""), own.is_some()) {
            (Some(_), true) => Err(s3_error!(
                InvalidArgument,
                "Server Side Encryption with Customer provided key is incompatible with the encryption method specified"
            )),
            (None | Some(AES256), _) if by_service("-aws-kms-key-id").is_some() => Err(s3_error!(
                InvalidArgument,
                "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms"
            )),
            (Some("aws:kms" | "aws:kms:dsse"), _) => Err(unavailable(
                "There is no key management service here; AES256 encrypts with the cloud's own key",
            )),
            (Some(AES256), false) => Ok(Self { own, asked: true }),
            (Some(_), false) => Err(s3_error!(
                InvalidArgument,
                "The encryption method specified is not supported"
            )),
            (None, _) => Ok(Self { own, asked: false }),
        }
    }

    pub fn is_given(&self) -> bool {
        self.asked || self.own.is_some()
    }

    /// How to keep what is put into a bucket; `always` is the cloud's setting.
    pub fn lock(&self, bucket: &Bucket, always: bool) -> Lock {
        match &self.own {
            Some(key) => Lock::Customer(key.clone()),
            None if self.asked || always || bucket.config.encrypted => Lock::Master,
            None => Lock::Open,
        }
    }
}

impl Lock {
    /// What an object's row says of it.
    pub fn noted(&self) -> Option<Encryption> {
        match self {
            Self::Open => None,
            Self::Master => Some(Encryption::Master),
            Self::Customer(key) => Some(Encryption::Customer(key.check())),
        }
    }

    /// The ETag of bytes with that MD5: with a client's key it says nothing of them (AWS, "Object", ETag).
    pub fn etag(&self, md5: String) -> String {
        match self {
            Self::Customer(_) => hex::encode(rand::random::<[u8; 16]>()),
            Self::Open | Self::Master => md5,
        }
    }

    /// Whether contents of an object can be shared with one that is kept like this.
    pub fn is_of(&self, about: &About) -> bool {
        self.noted() == about.encryption
    }

    /// That of an upload's parts, whose requests have to bring the client's key again.
    pub fn of_upload(upload: &Upload, headers: &HeaderMap) -> S3Result<Self> {
        match (&upload.about.encryption, customer_key(headers)?) {
            (None, None) => Ok(Self::Open),
            (Some(Encryption::Master), None) => Ok(Self::Master),
            (Some(Encryption::Customer(check)), Some(key)) if *check == key.check() => {
                Ok(Self::Customer(key))
            }
            (Some(Encryption::Customer(_)), None) => Err(s3_error!(
                InvalidRequest,
                "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate encryption parameters."
            )),
            (Some(Encryption::Customer(_)), Some(_)) => Err(s3_error!(
                InvalidRequest,
                "The provided encryption parameters did not match the ones used originally."
            )),
            (None | Some(Encryption::Master), Some(_)) => Err(s3_error!(
                InvalidRequest,
                "The multipart upload initiate did not request encryption. Please resend the request without sending encryption parameters."
            )),
        }
    }
}

/// Whether this is the key that an object is to be read with.
pub fn opened_by(about: &About, key: Option<&Key>) -> S3Result<()> {
    match (&about.encryption, key) {
        (Some(Encryption::Customer(_)), None) => Err(s3_error!(
            InvalidRequest,
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object."
        )),
        (Some(Encryption::Customer(check)), Some(key)) if *check != key.check() => Err(denied()),
        (None | Some(Encryption::Master), Some(_)) => Err(s3_error!(
            InvalidRequest,
            "The encryption parameters are not applicable to this object."
        )),
        _ => Ok(()),
    }
}

/// Says in an answer's headers how an object is kept.
pub fn tell(extensions: &Extensions, encryption: Option<&Encryption>, key: Option<&Key>) {
    let aes = HeaderValue::from_static(AES256);
    Besides::say(extensions, |headers, _| match (encryption, key) {
        (Some(Encryption::Master), _) => {
            headers.insert("x-amz-server-side-encryption", aes);
        }
        (Some(Encryption::Customer(_)), Some(key)) => {
            headers.insert("x-amz-server-side-encryption-customer-algorithm", aes);
            if let Ok(md5) = HeaderValue::from_str(&key.md5()) {
                headers.insert("x-amz-server-side-encryption-customer-key-md5", md5);
            }
        }
        _ => {}
    });
}

impl Store {
    /// Whether everything is encrypted that doesn't say otherwise.
    pub fn encrypts(&self) -> bool {
        self.cloud.rules().encryption
    }

    pub async fn get_bucket_encryption(
        self: &Arc<Self>,
        request: S3Request<GetBucketEncryptionInput>,
    ) -> S3Result<GetBucketEncryptionOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        if !bucket.config.encrypted && !self.encrypts() {
            return Err(custom(
                "ServerSideEncryptionConfigurationNotFoundError",
                StatusCode::NOT_FOUND,
                "The server side encryption configuration was not found",
            ));
        }
        let by = ServerSideEncryptionByDefault {
            kms_master_key_id: None,
            sse_algorithm: ServerSideEncryption::from_static(AES256),
        };
        let rule = ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(by),
            bucket_key_enabled: Some(false),
        };
        Ok(GetBucketEncryptionOutput {
            server_side_encryption_configuration: Some(ServerSideEncryptionConfiguration {
                rules: vec![rule],
            }),
        })
    }

    pub async fn put_bucket_encryption(
        self: &Arc<Self>,
        request: S3Request<PutBucketEncryptionInput>,
    ) -> S3Result<PutBucketEncryptionOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let rules = &input.server_side_encryption_configuration.rules[..];
        let by = match rules {
            [rule] => rule.apply_server_side_encryption_by_default.as_ref(),
            _ => None,
        };
        let by = by.ok_or_else(malformed)?;
        match (by.sse_algorithm.as_str(), &by.kms_master_key_id) {
            (AES256, None) => {}
            (AES256, Some(_)) => {
                return Err(s3_error!(
                    InvalidArgument,
                    "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse"
                ));
            }
            ("aws:kms" | "aws:kms:dsse", _) => {
                return Err(s3_error!(
                    NotImplemented,
                    "There is no key management service here; AES256 encrypts with the cloud's own key."
                ));
            }
            _ => return Err(malformed()),
        }
        self.set(account, input.bucket, |config| config.encrypted = true)
            .await?;
        Ok(PutBucketEncryptionOutput::default())
    }

    pub async fn delete_bucket_encryption(
        self: &Arc<Self>,
        request: S3Request<DeleteBucketEncryptionInput>,
    ) -> S3Result<DeleteBucketEncryptionOutput> {
        let account = account(&request.extensions)?;
        let bucket = request.input.bucket;
        self.set(account, bucket, |config| config.encrypted = false)
            .await?;
        Ok(DeleteBucketEncryptionOutput::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(pairs: &[(&'static str, &str)]) -> Result<bool, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        Wish::of(&headers)
            .map(|wish| wish.is_given())
            .map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn what_requests_say_of_encryption() {
        const ALGORITHM: &str = "x-amz-server-side-encryption-customer-algorithm";
        const KEY: &str = "x-amz-server-side-encryption-customer-key";
        const MD5: &str = "x-amz-server-side-encryption-customer-key-md5";
        const SERVICE: &str = "x-amz-server-side-encryption";
        let key = Key::of(&[1; 32]).unwrap();
        let (spelt, md5) = (STANDARD.encode([1; 32]), key.md5());
        let wrong = |code: &str| Err(code.to_owned());
        assert_eq!(code(&[]), Ok(false));
        assert_eq!(code(&[(SERVICE, "AES256")]), Ok(true));
        assert_eq!(code(&[(SERVICE, "aws:kms")]), wrong("NotImplemented"));
        assert_eq!(code(&[(SERVICE, "ROT13")]), wrong("InvalidArgument"));
        let key_id = ("x-amz-server-side-encryption-aws-kms-key-id", "k");
        assert_eq!(code(&[(SERVICE, AES256), key_id]), wrong("InvalidArgument"));
        assert_eq!(
            code(&[("x-amz-server-side-encryption-aws-kms-key-id", "k")]),
            wrong("InvalidArgument")
        );
        let whole = [(ALGORITHM, AES256), (KEY, &spelt), (MD5, &md5)];
        assert_eq!(code(&whole), Ok(true));
        for missing in 0..3 {
            let mut part = whole.to_vec();
            part.remove(missing);
            assert_eq!(code(&part), wrong("InvalidArgument"), "{missing}");
        }
        assert_eq!(
            code(&[(ALGORITHM, AES256), (KEY, &spelt), (MD5, "x")]),
            wrong("InvalidArgument")
        );
        assert_eq!(
            code(&[(ALGORITHM, AES256), (KEY, "c2hvcnQ="), (MD5, &md5)]),
            wrong("InvalidArgument")
        );
        assert_eq!(
            code(&[(ALGORITHM, "DES"), (KEY, &spelt), (MD5, &md5)]),
            wrong("InvalidEncryptionAlgorithmError")
        );
        let both = [&whole[..], &[(SERVICE, AES256)]].concat();
        assert_eq!(code(&both), wrong("InvalidArgument"));
    }
}
