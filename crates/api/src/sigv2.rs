//! Signature Version 2, which older EC2 tools (boto 2, euca2ools 1) send: the
//! parameters themselves carry key, time and signature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::auth::{AuthError, Demands, RequestHead};
use crate::{form, time};

/// What a signature of version 2 claims.
#[derive(Clone, Debug)]
pub struct Claim {
    pub access_key: String,
    method: Method,
    validity: Validity,
    signature: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Method {
    HmacSha256,
    HmacSha1,
}

/// When the signature holds, in milliseconds since the epoch.
#[derive(Clone, Copy, Debug)]
enum Validity {
    /// Around the time of signing.
    At(i64),
    /// Up to a time that the client chose.
    Until(i64),
}

/// Reads the claim of the parameters.
///
/// # Errors
/// [`AuthError::Incomplete`] and [`AuthError::SessionToken`].
pub fn parse(head: &RequestHead<'_>) -> Result<Claim, AuthError> {
    let field = |name: &str| {
        head.parameter(name)
            .ok_or_else(|| incomplete(&format!("The request must contain the parameter {name}.")))
    };
    if field("SignatureVersion")? != "2" {
        return Err(incomplete(
            "SignatureVersion must be 2; newer signatures are in the Authorization header.",
        ));
    }
    let method = match field("SignatureMethod")? {
        "HmacSHA256" => Method::HmacSha256,
        "HmacSHA1" => Method::HmacSha1,
        _ => {
            return Err(incomplete(
                "SignatureMethod must be HmacSHA256 or HmacSHA1.",
            ));
        }
    };
    if head.parameter("SecurityToken").is_some() {
        return Err(AuthError::SessionToken);
    }
    let time = |text: &str| {
        time::parse_iso8601(text)
            .ok_or_else(|| incomplete("Timestamp and Expires must be times in ISO 8601."))
    };
    let validity = match (head.parameter("Expires"), head.parameter("Timestamp")) {
        (Some(_), Some(_)) => {
            return Err(incomplete("Timestamp and Expires can't be used together."));
        }
        (Some(expires), None) => Validity::Until(time(expires)?),
        (None, Some(timestamp)) => Validity::At(time(timestamp)?),
        (None, None) => {
            return Err(incomplete(
                "The request must contain the parameter Timestamp or Expires.",
            ));
        }
    };
    Ok(Claim {
        access_key: field("AWSAccessKeyId")?.to_owned(),
        method,
        validity,
        signature: STANDARD
            .decode(field("Signature")?)
            .map_err(|_| incomplete("Signature must be base64."))?,
    })
}

impl Claim {
    /// Proves the claim; see [`crate::auth::Claim::verify`]. The body needs no
    /// digest: its parameters are signed one by one.
    ///
    /// # Errors
    /// [`AuthError::Expired`] and [`AuthError::Mismatch`].
    pub fn verify(
        &self,
        secret: &str,
        head: &RequestHead<'_>,
        demands: &Demands<'_>,
        now_ms: i64,
    ) -> Result<(), AuthError> {
        let holds = match self.validity {
            Validity::At(time_ms) => (now_ms - time_ms).abs() <= demands.max_skew_ms,
            Validity::Until(time_ms) => now_ms <= time_ms,
        };
        if !holds {
            return Err(AuthError::Expired(format!(
                "Request has expired. It is now {}.",
                time::format_ms(now_ms)
            )));
        }
        let expected = self.method.mac(secret, &string_to_sign(head));
        if bool::from(expected.as_slice().ct_eq(&self.signature)) {
            Ok(())
        } else {
            Err(AuthError::Mismatch)
        }
    }
}

impl Method {
    fn mac(self, secret: &str, text: &str) -> Vec<u8> {
        const ANY_LENGTH: &str = "HMAC takes keys of any length";
        match self {
            Method::HmacSha256 => {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect(ANY_LENGTH);
                mac.update(text.as_bytes());
                mac.finalize().into_bytes().to_vec()
            }
            Method::HmacSha1 => {
                let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect(ANY_LENGTH);
                mac.update(text.as_bytes());
                mac.finalize().into_bytes().to_vec()
            }
        }
    }
}

/// Method, host, path and the sorted parameters without the signature.
fn string_to_sign(head: &RequestHead<'_>) -> String {
    let mut parameters: Vec<(&str, &str)> = head
        .parameters
        .iter()
        .map(|(name, value)| (name.as_ref(), value.as_ref()))
        .filter(|(name, _)| *name != "Signature")
        .collect();
    parameters.sort();
    let host = head.header("host").unwrap_or_default().to_ascii_lowercase();
    let path = if head.path.is_empty() { "/" } else { head.path };
    let mut text = format!("{}\n{host}\n{path}\n", head.method);
    for (place, (name, value)) in parameters.into_iter().enumerate() {
        if place > 0 {
            text.push('&');
        }
        form::percent_encode(&mut text, name.as_bytes(), b"");
        text.push('=');
        form::percent_encode(&mut text, value.as_bytes(), b"");
    }
    text
}

fn incomplete(reason: &str) -> AuthError {
    AuthError::Incomplete(reason.to_owned())
}
