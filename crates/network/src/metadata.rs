//! The instance metadata service (IMDSv1 and v2) as a function: port and request in, answer out.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html>
//!
//! What a guest may see is a [`tree`](crate::metadata_tree) made from the specs; this file has the
//! rules of who may ask how. Tokens hold their own proof, so the service remembers none and a
//! flood of token requests costs no memory.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SERVER};
use hyper::{Method, Response, StatusCode};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::metadata_tree::{self, Found};
use crate::spec::{PortSpec, VpcSpec};

const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Six hours.
const TTL_S_MAX: u64 = 21_600;

/// The secret behind the tokens of one services process. Tokens die with it; clients then get 401
/// and ask for a new one, as they do when one expires.
pub struct Tokens {
    key: [u8; 32],
}

/// Eight bytes of expiry, eight that make it unique, 24 of proof.
const TOKEN_LENGTH: usize = 40;

impl Tokens {
    pub fn new(key: [u8; 32]) -> Self {
        Tokens { key }
    }

    /// A token for `instance` until `expiry_s` of the caller's clock.
    fn issue(&self, instance: &str, expiry_s: u64, nonce: u64) -> String {
        let mut token = [0; TOKEN_LENGTH];
        token[..8].copy_from_slice(&expiry_s.to_be_bytes());
        token[8..16].copy_from_slice(&nonce.to_be_bytes());
        let proof = self.proof(instance, &token[..16]);
        token[16..].copy_from_slice(&proof);
        URL_SAFE.encode(token)
    }

    fn is_valid(&self, instance: &str, token: &[u8], now_s: u64) -> bool {
        let Ok(token) = URL_SAFE.decode(token) else {
            return false;
        };
        let Ok(token) = <[u8; TOKEN_LENGTH]>::try_from(token) else {
            return false;
        };
        let (facts, proof) = token.split_at(16);
        let mut expiry = [0; 8];
        expiry.copy_from_slice(&facts[..8]);
        let proven: bool = self.proof(instance, facts).ct_eq(proof).into();
        proven && now_s < u64::from_be_bytes(expiry)
    }

    fn proof(&self, instance: &str, facts: &[u8]) -> [u8; 24] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(instance.as_bytes());
        mac.update(&[0]);
        mac.update(facts);
        let mut proof = [0; 24];
        proof.copy_from_slice(&mac.finalize().into_bytes()[..24]);
        proof
    }
}

/// A request without its body: none that is honoured has one.
#[derive(Debug)]
pub struct Request<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    /// Seconds of a clock that never goes back.
    pub now_s: u64,
    /// Unpredictable, for a token.
    pub nonce: u64,
}

/// An answer and how many hops it may travel, where that is limited.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<Bytes>,
    pub hop_limit: Option<u8>,
}

/// Answers a request that came in by the tap of `port`.
pub fn answer(spec: &VpcSpec, port: &PortSpec, tokens: &Tokens, request: &Request<'_>) -> Answer {
    if !port.metadata.endpoint_enabled {
        return error(StatusCode::FORBIDDEN).into();
    }
    if *request.method == Method::PUT {
        return answer_put(port, tokens, request);
    }
    if *request.method != Method::GET && *request.method != Method::HEAD {
        return error(StatusCode::METHOD_NOT_ALLOWED).into();
    }
    let authorized = match request.headers.get(TOKEN) {
        Some(token) => tokens.is_valid(&port.instance, token.as_bytes(), request.now_s),
        None => !port.metadata.tokens_required,
    };
    if !authorized {
        return error(StatusCode::UNAUTHORIZED).into();
    }
    match metadata_tree::find(spec, port, request.path) {
        Some(Found::Text(body)) => success("text/plain", body).into(),
        Some(Found::Binary(body)) => success("application/octet-stream", body).into(),
        None => error(StatusCode::NOT_FOUND).into(),
    }
}

/// The only thing to put is a request for a token. One that came through a proxy is refused: that
/// is how an open proxy in a guest is kept from handing out its secrets.
fn answer_put(port: &PortSpec, tokens: &Tokens, request: &Request<'_>) -> Answer {
    if request.headers.contains_key(FORWARDED_FOR) {
        return error(StatusCode::FORBIDDEN).into();
    }
    if request.path.trim_end_matches('/') != "/latest/api/token" {
        return error(StatusCode::NOT_FOUND).into();
    }
    let ttl_s = request
        .headers
        .get(TOKEN_TTL)
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok())
        .filter(|ttl_s| (1..=TTL_S_MAX).contains(ttl_s));
    let Some(ttl_s) = ttl_s else {
        return error(StatusCode::BAD_REQUEST).into();
    };
    let expiry_s = request.now_s.saturating_add(ttl_s);
    let token = tokens.issue(&port.instance, expiry_s, request.nonce);
    let mut response = success("text/plain", Bytes::from(token));
    response
        .headers_mut()
        .insert(TOKEN_TTL, HeaderValue::from(ttl_s));
    Answer {
        response,
        hop_limit: Some(port.metadata.hop_limit),
    }
}

impl From<Response<Bytes>> for Answer {
    fn from(response: Response<Bytes>) -> Self {
        Answer {
            response,
            hop_limit: None,
        }
    }
}

fn success(content_type: &'static str, body: Bytes) -> Response<Bytes> {
    with_headers(StatusCode::OK, content_type, body)
}

/// AWS's error page.
fn error(status: StatusCode) -> Response<Bytes> {
    let title = format!(
        "{} - {}",
        status.as_str(),
        status.canonical_reason().unwrap_or("Error")
    );
    let page = format!(
        "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n\
         <!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n\
         \t\"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n\
         <html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n \
         <head>\n  <title>{title}</title>\n </head>\n \
         <body>\n  <h1>{title}</h1>\n </body>\n</html>\n"
    );
    with_headers(status, "text/html", Bytes::from(page))
}

fn with_headers(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(SERVER, HeaderValue::from_static("EC2ws"));
    response
}
