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

/// The writer has stopped.
pub fn gone() -> S3Error {
    s3_error!(
        ServiceUnavailable,
        "The object store is not writing. Try again later."
    )
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
