//! Who sent a request: signatures of version 4 (header and presigned URL) and 2.
//!
//! Verification has two steps, so that the look-up of the secret between them is
//! the caller's: [`parse`] finds what the request claims, [`Claim::verify`] proves
//! it. Both are pure; a server that received HTTP/2 gives `:authority` as the
//! header `host`.

use std::borrow::Cow;
use std::fmt;

use crate::error::ApiError;
use crate::form;
use crate::shape::Protocol;
use crate::{sigv2, sigv4};

/// What of a request its signature covers, beside the body.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// The path as it was sent, still escaped.
    pub path: &'a str,
    /// The query string as it was sent, still escaped, without `?`.
    pub query: &'a str,
    /// Names in any case, values without the line's end.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The parameters of the query string and, of a form, those of the body:
    /// what [`crate::decode()`] will read, and what version 2 signs.
    pub parameters: &'a [(Cow<'a, str>, Cow<'a, str>)],
}

/// What a request says about who signed it, not yet proved.
#[derive(Clone, Debug)]
pub enum Claim {
    V4(sigv4::Claim),
    V2(sigv2::Claim),
}

/// What the receiver demands of a signature.
#[derive(Clone, Copy, Debug)]
pub struct Demands<'a> {
    /// The service that will answer (`ec2`): the scope has to name it.
    pub service: &'a str,
    /// The regions that a scope may name; none allows any.
    pub regions: &'a [&'a str],
    /// How far the signature's time may be from `now`: [`max_skew_ms`].
    pub max_skew_ms: i64,
}

/// A service's allowance for a client's clock: 15 minutes ("RequestExpired" in "Error codes for the
/// Amazon EC2 API"), 5 for Boira's own API, whose clients run beside it.
pub fn max_skew_ms(service: &str) -> i64 {
    match service {
        "boira" => 5 * 60_000,
        _ => 15 * 60_000,
    }
}

/// Why a request isn't believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// It isn't signed.
    Missing,
    /// Its signature can't be read; the sentence says what is wrong.
    Incomplete(String),
    /// The access key isn't known. The caller's answer to a failed look-up.
    UnknownKey,
    /// The signature is not that of the secret.
    Mismatch,
    /// The scope names another date, region or service.
    Scope(String),
    /// Its time is too long ago or ahead, or a presigned URL has run out.
    Expired(String),
    /// It carries a session token; there are none.
    SessionToken,
}

/// Finds the signature of a request and reads what it claims.
///
/// # Errors
/// [`AuthError::Missing`], [`AuthError::Incomplete`] and [`AuthError::SessionToken`].
pub fn parse(head: &RequestHead<'_>) -> Result<Claim, AuthError> {
    if let Some(authorization) = head.header("authorization") {
        return sigv4::parse_header(head, authorization).map(Claim::V4);
    }
    if head.parameter("X-Amz-Algorithm").is_some() {
        return sigv4::parse_presigned(head).map(Claim::V4);
    }
    if head.parameter("Signature").is_some() || head.parameter("SignatureVersion").is_some() {
        return sigv2::parse(head).map(Claim::V2);
    }
    Err(AuthError::Missing)
}

impl Claim {
    /// The key whose secret proves the claim.
    pub fn access_key(&self) -> &str {
        match self {
            Claim::V4(claim) => &claim.scope.access_key,
            Claim::V2(claim) => &claim.access_key,
        }
    }

    /// The service that the scope names; version 2 has no scope.
    pub fn service(&self) -> Option<&str> {
        match self {
            Claim::V4(claim) => Some(&claim.scope.service),
            Claim::V2(_) => None,
        }
    }

    /// Proves the claim with the secret of its access key.
    ///
    /// `body_sha256` is the body's digest. `now_ms` counts from the Unix epoch.
    ///
    /// # Errors
    /// [`AuthError::Scope`], [`AuthError::Expired`], [`AuthError::Incomplete`] when
    /// a header is unsigned that has to be signed, [`AuthError::Mismatch`].
    pub fn verify(
        &self,
        secret: &str,
        head: &RequestHead<'_>,
        body_sha256: &[u8; 32],
        demands: &Demands<'_>,
        now_ms: i64,
    ) -> Result<(), AuthError> {
        match self {
            Claim::V4(claim) => claim.verify(secret, head, body_sha256, demands, now_ms),
            Claim::V2(claim) => claim.verify(secret, head, demands, now_ms),
        }
    }
}

impl<'a> RequestHead<'a> {
    /// The first header of this lower-case name, as text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self
            .headers
            .iter()
            .find(|(present, _)| present.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok().map(str::trim)
    }

    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        form::get(self.parameters, name)
    }
}

impl AuthError {
    /// The error as the services of this protocol answer it.
    ///
    /// EC2 doesn't tell a wrong secret from an unknown key or token; the others do.
    pub fn to_api_error(&self, protocol: Protocol) -> ApiError {
        match (self, protocol) {
            (AuthError::Missing, _) => ApiError::new(
                "MissingAuthenticationToken",
                "Request is missing Authentication Token",
            ),
            (AuthError::Incomplete(reason), _) => {
                ApiError::new("IncompleteSignature", reason.as_str())
            }
            (
                AuthError::UnknownKey | AuthError::Mismatch | AuthError::SessionToken,
                Protocol::Ec2,
            ) => ApiError::new(
                "AuthFailure",
                "AWS was not able to validate the provided access credentials",
            ),
            (AuthError::Scope(reason), Protocol::Ec2) => {
                ApiError::new("AuthFailure", reason.as_str())
            }
            (AuthError::UnknownKey | AuthError::SessionToken, Protocol::Query) => ApiError::new(
                "InvalidClientTokenId",
                "The security token included in the request is invalid.",
            ),
            (AuthError::Mismatch, Protocol::Query) => ApiError::new(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. \
                 Check your AWS Secret Access Key and signing method. \
                 Consult the service documentation for details.",
            ),
            (AuthError::Scope(reason) | AuthError::Expired(reason), Protocol::Query) => {
                ApiError::new("SignatureDoesNotMatch", reason.as_str())
            }
            (AuthError::Expired(reason), Protocol::Ec2) => {
                ApiError::new("RequestExpired", reason.as_str())
            }
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            AuthError::Missing => "the request is not signed",
            AuthError::Incomplete(reason)
            | AuthError::Scope(reason)
            | AuthError::Expired(reason) => reason,
            AuthError::UnknownKey => "the access key is unknown",
            AuthError::Mismatch => "the signature does not match",
            AuthError::SessionToken => "the request carries a session token",
        })
    }
}

impl std::error::Error for AuthError {}
