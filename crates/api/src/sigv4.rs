//! Signature Version 4: "Create a signed AWS API request" and "Authenticating
//! Requests: Using Query Parameters" in AWS's documentation.
//!
//! Scopes look like `20150830/us-east-1/iam/aws4_request`. Payloads are always
//! signed: the marker UNSIGNED-PAYLOAD belongs to S3, which has its own reader.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::auth::{AuthError, Demands, RequestHead};
use crate::{form, time};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// A presigned URL holds for at most 7 days.
const MAX_EXPIRES_S: i64 = 7 * 86_400;
/// More signed headers than any client has.
const MAX_SIGNED_HEADERS: usize = 100;

/// What a signature of version 4 claims.
#[derive(Clone, Debug)]
pub struct Claim {
    pub scope: Scope,
    time_ms: i64,
    /// How long a presigned URL holds, in seconds.
    expires_s: Option<i64>,
    /// Lower-case and sorted.
    signed_headers: Vec<String>,
    signature: [u8; 32],
}

/// A credential: whose key, and for which date, region and service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub access_key: String,
    /// `YYYYMMDD`.
    pub date: String,
    pub region: String,
    pub service: String,
}

/// Reads a credential, `AKID/20150830/us-east-1/ec2/aws4_request`.
pub fn parse_credential(credential: &str) -> Option<Scope> {
    let mut parts = credential.rsplitn(5, '/');
    let terminator = parts.next()?;
    let (service, region, date, access_key) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_date = date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = is_date
        && terminator == "aws4_request"
        && [service, region, access_key]
            .iter()
            .all(|part| !part.is_empty());
    is_whole.then(|| Scope {
        access_key: access_key.to_owned(),
        date: date.to_owned(),
        region: region.to_owned(),
        service: service.to_owned(),
    })
}

/// The credential that an `Authorization` header names, as far as it can be read.
pub fn header_credential(authorization: &str) -> Option<Scope> {
    parse_credential(header_field(
        authorization.strip_prefix(ALGORITHM)?,
        "Credential",
    )?)
}

/// Reads the claim of an `Authorization` header.
///
/// # Errors
/// [`AuthError::Incomplete`] and [`AuthError::SessionToken`].
pub fn parse_header(head: &RequestHead<'_>, authorization: &str) -> Result<Claim, AuthError> {
    let Some(fields) = authorization.strip_prefix(ALGORITHM) else {
        return Err(incomplete(
            "Unsupported AWS 'algorithm': the Authorization header has to start with 'AWS4-HMAC-SHA256'.",
        ));
    };
    let field = |name: &str| {
        header_field(fields, name).ok_or_else(|| {
            incomplete(&format!(
                "Authorization header requires '{name}' parameter."
            ))
        })
    };
    let (credential, signed_headers, signature) = (
        field("Credential")?,
        field("SignedHeaders")?,
        field("Signature")?,
    );
    if head.header("x-amz-security-token").is_some() {
        return Err(AuthError::SessionToken);
    }
    let date = head.header("x-amz-date").or_else(|| head.header("date")).ok_or_else(|| {
        incomplete("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    })?;
    Ok(Claim {
        scope: scope(credential)?,
        time_ms: time(date)?,
        expires_s: None,
        signed_headers: header_names(signed_headers)?,
        signature: hex_signature(signature)?,
    })
}

/// Reads the claim of a presigned URL.
///
/// # Errors
/// [`AuthError::Incomplete`] and [`AuthError::SessionToken`].
pub fn parse_presigned(head: &RequestHead<'_>) -> Result<Claim, AuthError> {
    // Only the URL counts: what a form repeats isn't part of the canonical query.
    let query =
        form::parse(head.query.as_bytes()).map_err(|error| AuthError::Incomplete(error.message))?;
    let field = |name: &str| {
        form::get(&query, name).ok_or_else(|| {
            incomplete(&format!(
                "AWS query-string parameters must include '{name}'."
            ))
        })
    };
    if field("X-Amz-Algorithm")? != ALGORITHM {
        return Err(incomplete(
            "Unsupported AWS 'algorithm': X-Amz-Algorithm has to be 'AWS4-HMAC-SHA256'.",
        ));
    }
    if form::get(&query, "X-Amz-Security-Token").is_some()
        || head.header("x-amz-security-token").is_some()
    {
        return Err(AuthError::SessionToken);
    }
    let expires_s = match form::get(&query, "X-Amz-Expires") {
        None => None,
        Some(text) => match text.parse() {
            Ok(seconds) if (0..=MAX_EXPIRES_S).contains(&seconds) => Some(seconds),
            _ => {
                return Err(incomplete(
                    "X-Amz-Expires must be a number of seconds up to 604800 (7 days).",
                ));
            }
        },
    };
    Ok(Claim {
        scope: scope(field("X-Amz-Credential")?)?,
        time_ms: time(field("X-Amz-Date")?)?,
        expires_s,
        signed_headers: header_names(field("X-Amz-SignedHeaders")?)?,
        signature: hex_signature(field("X-Amz-Signature")?)?,
    })
}

impl Claim {
    /// Proves the claim; see [`crate::auth::Claim::verify`].
    ///
    /// # Errors
    /// Those listed there.
    pub fn verify(
        &self,
        secret: &str,
        head: &RequestHead<'_>,
        body_sha256: &[u8; 32],
        demands: &Demands<'_>,
        now_ms: i64,
    ) -> Result<(), AuthError> {
        self.check_scope(demands)?;
        self.check_time(demands, now_ms)?;
        self.check_signed_headers(head)?;
        let body_sha256 = hex::encode(body_sha256);
        if head
            .header("x-amz-content-sha256")
            .is_some_and(|claimed| !claimed.eq_ignore_ascii_case(&body_sha256))
        {
            return Err(AuthError::Mismatch);
        }
        let canonical = canonical_request(head, &self.signed_headers, &body_sha256);
        let expected = signature(secret, &self.scope, self.time_ms, &canonical);
        if bool::from(expected.ct_eq(&self.signature)) {
            Ok(())
        } else {
            Err(AuthError::Mismatch)
        }
    }

    fn check_scope(&self, demands: &Demands<'_>) -> Result<(), AuthError> {
        let Scope {
            date,
            region,
            service,
            ..
        } = &self.scope;
        if service != demands.service {
            return Err(AuthError::Scope(format!(
                "Credential should be scoped to correct service: '{}'.",
                demands.service
            )));
        }
        if !demands.regions.is_empty() && !demands.regions.contains(&region.as_str()) {
            return Err(AuthError::Scope(
                "Credential should be scoped to a valid region.".to_owned(),
            ));
        }
        if !time::format_basic(self.time_ms).starts_with(date.as_str()) {
            return Err(AuthError::Scope(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP".to_owned(),
            ));
        }
        Ok(())
    }

    fn check_time(&self, demands: &Demands<'_>, now_ms: i64) -> Result<(), AuthError> {
        let holds_ms = self
            .expires_s
            .map_or(demands.max_skew_ms, |seconds| seconds * 1000);
        let (signed, now) = (time::format_basic(self.time_ms), time::format_basic(now_ms));
        if now_ms - self.time_ms > holds_ms {
            return Err(AuthError::Expired(format!(
                "Request has expired. It was signed at {signed}; it is now {now}."
            )));
        }
        if self.time_ms - now_ms > demands.max_skew_ms {
            return Err(AuthError::Expired(format!(
                "Signature not yet current: {signed} is still later than {now}."
            )));
        }
        Ok(())
    }

    /// The host has to be signed, or a request could be sent on to another
    /// service; and what means something to AWS, or it could be added.
    fn check_signed_headers(&self, head: &RequestHead<'_>) -> Result<(), AuthError> {
        let signed = |name: &str| self.signed_headers.iter().any(|signed| signed == name);
        if !signed("host") {
            return Err(incomplete(
                "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
            ));
        }
        for (name, _) in head.headers {
            let name = name.to_ascii_lowercase();
            if name.starts_with("x-amz-") && !signed(&name) {
                return Err(incomplete(&format!(
                    "'{name}' must be a 'SignedHeader' in the AWS Authorization."
                )));
            }
        }
        Ok(())
    }
}

/// A key pair of an account.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    pub access_key: &'a str,
    pub secret: &'a str,
}

/// Signs a request as a client: returns the headers to add, `x-amz-date` and
/// `authorization`. Signed are `host`, `content-type` and every `x-amz-*` header.
pub fn sign(
    credentials: Credentials<'_>,
    region: &str,
    service: &str,
    head: &RequestHead<'_>,
    body_sha256: &[u8; 32],
    now_ms: i64,
) -> [(&'static str, String); 2] {
    let scope = client_scope(credentials, region, service, now_ms);
    let date = time::format_basic(now_ms);
    let mut headers = head.headers.to_vec();
    headers.push(("x-amz-date", date.as_bytes()));
    let head = RequestHead {
        headers: &headers,
        ..*head
    };
    let mut signed: Vec<String> = headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    signed.retain(|name| name == "host" || name == "content-type" || name.starts_with("x-amz-"));
    signed.sort();
    signed.dedup();
    let canonical = canonical_request(&head, &signed, &hex::encode(body_sha256));
    let signature = hex::encode(signature(credentials.secret, &scope, now_ms, &canonical));
    let authorization = format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={signature}",
        scope.access_key,
        scope.path(),
        signed.join(";")
    );
    [("x-amz-date", date), ("authorization", authorization)]
}

/// Presigns a GET: returns the query string, complete with the signature.
pub fn presign(
    credentials: Credentials<'_>,
    region: &str,
    service: &str,
    head: &RequestHead<'_>,
    expires_s: u32,
    now_ms: i64,
) -> String {
    let scope = client_scope(credentials, region, service, now_ms);
    let mut query = head.query.to_owned();
    let mut add = |name: &str, value: &str| {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(name);
        query.push('=');
        form::percent_encode(&mut query, value.as_bytes(), b"");
    };
    add("X-Amz-Algorithm", ALGORITHM);
    add(
        "X-Amz-Credential",
        &format!("{}/{}", scope.access_key, scope.path()),
    );
    add("X-Amz-Date", &time::format_basic(now_ms));
    add("X-Amz-Expires", &expires_s.to_string());
    add("X-Amz-SignedHeaders", "host");
    let empty = hex::encode(Sha256::digest(b""));
    let canonical = canonical_request(
        &RequestHead {
            query: &query,
            ..*head
        },
        &["host".to_owned()],
        &empty,
    );
    let signature = hex::encode(signature(credentials.secret, &scope, now_ms, &canonical));
    format!("{query}&X-Amz-Signature={signature}")
}

fn client_scope(credentials: Credentials<'_>, region: &str, service: &str, now_ms: i64) -> Scope {
    Scope {
        access_key: credentials.access_key.to_owned(),
        date: time::format_basic(now_ms)[..8].to_owned(),
        region: region.to_owned(),
        service: service.to_owned(),
    }
}

impl Scope {
    /// The scope without the key.
    fn path(&self) -> String {
        format!(
            "{}/{}/{}/aws4_request",
            self.date, self.region, self.service
        )
    }
}

/// The signature of a canonical request ("Create a signed AWS API request", steps 2 to 4).
pub fn signature(secret: &str, scope: &Scope, time_ms: i64, canonical: &[u8]) -> [u8; 32] {
    let to_sign = string_to_sign(scope, time_ms, canonical);
    mac(secret, scope, to_sign.as_bytes())
}

/// What is signed of a canonical request.
pub fn string_to_sign(scope: &Scope, time_ms: i64, canonical: &[u8]) -> String {
    format!(
        "{ALGORITHM}\n{}\n{}\n{}",
        time::format_basic(time_ms),
        scope.path(),
        hex::encode(Sha256::digest(canonical))
    )
}

/// The signature of any text: policies of browsers' forms are signed as they are.
pub fn mac(secret: &str, scope: &Scope, text: &[u8]) -> [u8; 32] {
    let mut key = hmac_sha256(format!("AWS4{secret}").as_bytes(), scope.date.as_bytes());
    for step in [
        scope.region.as_str(),
        scope.service.as_str(),
        "aws4_request",
    ] {
        key = hmac_sha256(&key, step.as_bytes());
    }
    hmac_sha256(&key, text)
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// The canonical request: everything that is signed, in one spelling.
fn canonical_request(
    head: &RequestHead<'_>,
    signed_headers: &[String],
    body_sha256: &str,
) -> Vec<u8> {
    let mut canonical = Vec::with_capacity(512 + head.query.len());
    let mut line = |text: &[u8]| {
        canonical.extend_from_slice(text);
        canonical.push(b'\n');
    };
    line(head.method.as_bytes());
    line(canonical_path(head.path).as_bytes());
    line(canonical_query(head.query).as_bytes());
    for name in signed_headers {
        line(&[name.as_bytes(), b":", &canonical_header(head, name)].concat());
    }
    line(b"");
    line(signed_headers.join(";").as_bytes());
    canonical.extend_from_slice(body_sha256.as_bytes());
    canonical
}

/// The path without `.`, `..` and empty steps, escaped once more than it was sent.
fn canonical_path(path: &str) -> String {
    let mut steps: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                steps.pop();
            }
            step => steps.push(step),
        }
    }
    let mut canonical = String::with_capacity(path.len() + 8);
    for step in &steps {
        canonical.push('/');
        form::percent_encode(&mut canonical, step.as_bytes(), b"");
    }
    // A slash at the end is part of the path.
    let ends_open = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    if steps.is_empty() || ends_open {
        canonical.push('/');
    }
    canonical
}

/// The query's pairs without the signature, escaped in one way and sorted.
fn canonical_query(query: &str) -> String {
    let respelled = |text: &str| {
        let mut respelled = String::with_capacity(text.len() + 8);
        // As the reader of parameters has it: what is signed is what is read.
        let text = text.replace('+', " ");
        let bytes = form::percent_decode(text.as_bytes()).unwrap_or_else(|| text.into_bytes());
        form::percent_encode(&mut respelled, &bytes, b"");
        respelled
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (respelled(name), respelled(value)))
        .filter(|(name, _)| name != "X-Amz-Signature")
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

/// A header's values, each trimmed and with single spaces, joined by commas.
fn canonical_header(head: &RequestHead<'_>, name: &str) -> Vec<u8> {
    let mut canonical = Vec::new();
    let values = head
        .headers
        .iter()
        .filter(|(present, _)| present.eq_ignore_ascii_case(name));
    for (count, (_, value)) in values.enumerate() {
        if count > 0 {
            canonical.push(b',');
        }
        for (place, word) in value
            .split(|byte| matches!(byte, b' ' | b'\t'))
            .filter(|word| !word.is_empty())
            .enumerate()
        {
            if place > 0 {
                canonical.push(b' ');
            }
            canonical.extend_from_slice(word);
        }
    }
    canonical
}

/// A field of an `Authorization` header, of what comes after the algorithm.
pub fn header_field<'h>(fields: &'h str, name: &str) -> Option<&'h str> {
    fields
        .split(',')
        .filter_map(|field| field.trim().split_once('='))
        .find(|(present, _)| *present == name)
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty())
}

fn scope(credential: &str) -> Result<Scope, AuthError> {
    parse_credential(credential).ok_or_else(|| {
        incomplete("Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/aws4_request.")
    })
}

fn time(text: &str) -> Result<i64, AuthError> {
    time::parse_basic(text).ok_or_else(|| {
        incomplete("Date must be in ISO-8601 'basic format', e.g. 20150830T123600Z.")
    })
}

fn header_names(text: &str) -> Result<Vec<String>, AuthError> {
    let names: Vec<String> = text
        .split(';')
        .take(MAX_SIGNED_HEADERS + 1)
        .map(str::to_owned)
        .collect();
    let is_plain =
        |name: &String| !name.is_empty() && !name.bytes().any(|byte| byte.is_ascii_uppercase());
    let is_sorted = names.windows(2).all(|pair| pair[0] < pair[1]);
    if names.len() > MAX_SIGNED_HEADERS || !is_sorted || !names.iter().all(is_plain) {
        return Err(incomplete(
            "SignedHeaders must be a sorted list of lower-case header names, separated by ';'.",
        ));
    }
    Ok(names)
}

fn hex_signature(text: &str) -> Result<[u8; 32], AuthError> {
    let mut signature = [0; 32];
    match hex::decode_to_slice(text, &mut signature) {
        Ok(()) => Ok(signature),
        Err(_) => Err(incomplete("Signature must be 64 hexadecimal digits.")),
    }
}

fn incomplete(reason: &str) -> AuthError {
    AuthError::Incomplete(reason.to_owned())
}
