//! Errors that are the store's own, as S3's clients know them.

use http::StatusCode;
use rusqlite::ErrorCode;
use s3s::{S3Error, S3ErrorCode, s3_error};
use std::borrow::Cow;

/// Whether an error is the store's and not the request's.
pub fn is_ours(error: &S3Error) -> bool {
    let code = error.code().as_str();
    ["InternalError", "InsufficientStorage", "ServiceUnavailable"].contains(&code)
}

pub fn denied() -> S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

pub fn malformed() -> S3Error {
    s3_error!(
        MalformedXML,
        "The XML you provided was not well-formed or did not validate against our published schema"
    )
}

pub fn unknown_key() -> S3Error {
    s3_error!(
        InvalidAccessKeyId,
        "The AWS Access Key Id you provided does not exist in our records."
    )
}

/// There are no temporary credentials here.
pub fn no_tokens() -> S3Error {
    s3_error!(
        InvalidToken,
        "The provided token is malformed or otherwise invalid."
    )
}

pub fn other_signature() -> S3Error {
    s3_error!(
        SignatureDoesNotMatch,
        "The request signature we calculated does not match the signature you provided. Check your key and signing method."
    )
}

pub fn other_hash() -> S3Error {
    custom(
        "XAmzContentSHA256Mismatch",
        StatusCode::BAD_REQUEST,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    )
}

pub fn no_chunks() -> S3Error {
    s3_error!(
        InvalidRequest,
        "The request body is not well-formed aws-chunked content."
    )
}

pub fn incomplete() -> S3Error {
    s3_error!(
        IncompleteBody,
        "You did not provide the number of bytes specified by the Content-Length HTTP header."
    )
}

pub fn no_length() -> S3Error {
    s3_error!(
        MissingContentLength,
        "You must provide the Content-Length HTTP header."
    )
}

pub fn too_slow() -> S3Error {
    s3_error!(
        RequestTimeout,
        "Your socket connection to the server was not read from or written to within the timeout period."
    )
}

pub fn no_uri() -> S3Error {
    s3_error!(InvalidURI, "Couldn't parse the specified URI.")
}

pub fn not_allowed() -> S3Error {
    s3_error!(
        MethodNotAllowed,
        "The specified method is not allowed against this resource."
    )
}

/// The writer has stopped.
pub fn gone() -> S3Error {
    s3_error!(
        ServiceUnavailable,
        "The object store is not writing. Try again later."
    )
}

/// `BlockedEncryptionTypes` of PutBucketEncryption.
pub fn no_blocked_encryption() -> S3Error {
    s3_error!(
        NotImplemented,
        "Kinds of encryption can't be blocked here. A bucket policy can deny s3:PutObject with s3:x-amz-server-side-encryption-customer-algorithm."
    )
}

pub fn no_document() -> S3Error {
    s3_error!(MissingRequestBodyError, "Request Body is empty")
}

/// What SQLite reports as an error of S3's; the reason goes to the log.
pub fn database_error(error: &rusqlite::Error) -> S3Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => full(),
        _ => {
            tracing::error!("object store: {error}");
            s3_error!(
                InternalError,
                "We encountered an internal error. Please try again."
            )
        }
    }
}

/// No room: a status that clients don't repeat at once (RFC 4918), for S3 has no code for it.
pub fn full() -> S3Error {
    custom(
        "InsufficientStorage",
        StatusCode::INSUFFICIENT_STORAGE,
        "The object store's disk is full. Delete something, or ask the administrator for room.",
    )
}

/// An error of S3's that s3s has no name for.
pub fn custom(
    code: &'static str,
    status: StatusCode,
    message: impl Into<Cow<'static, str>>,
) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}

/// What went wrong here and not with the request; the log has the reason.
pub fn internal(error: impl std::fmt::Display + 'static) -> S3Error {
    let any: &dyn std::any::Any = &error;
    if let Some(error) = any.downcast_ref::<rusqlite::Error>() {
        return database_error(error);
    }
    tracing::error!("object store: {error}");
    s3_error!(
        InternalError,
        "We encountered an internal error. Please try again."
    )
}
