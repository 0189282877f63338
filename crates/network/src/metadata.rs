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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::spec;

    fn tokens() -> Tokens {
        Tokens::new([7; 32])
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a header's value");
            (HeaderName::from_static(name), value)
        });
        pairs.collect()
    }

    fn ask(spec: &VpcSpec, method: &Method, path: &str, headers: &HeaderMap, now_s: u64) -> Answer {
        let request = Request {
            method,
            path,
            headers,
            now_s,
            nonce: 1,
        };
        answer(spec, &spec.ports[0], &tokens(), &request)
    }

    fn get(path: &str) -> (u16, String) {
        let answer = ask(&spec(), &Method::GET, path, &HeaderMap::new(), 0);
        let body = String::from_utf8_lossy(answer.response.body()).into_owned();
        (answer.response.status().as_u16(), body)
    }

    fn value(path: &str) -> String {
        let (status, body) = get(path);
        assert_eq!(status, 200, "{path}");
        body
    }

    fn status(spec: &VpcSpec, method: &Method, path: &str, pairs: &[(&'static str, &str)]) -> u16 {
        let answer = ask(spec, method, path, &headers(pairs), 100);
        answer.response.status().as_u16()
    }

    const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
    const TOKEN: &str = "x-aws-ec2-metadata-token";

    fn put_token(spec: &VpcSpec, ttl: &str, now_s: u64) -> String {
        let headers = headers(&[(TTL, ttl)]);
        let answer = ask(spec, &Method::PUT, "/latest/api/token", &headers, now_s);
        assert_eq!(answer.response.status(), 200);
        assert_eq!(answer.hop_limit, Some(2));
        String::from_utf8(answer.response.into_body().to_vec()).expect("text")
    }

    #[test]
    fn listings_are_those_of_aws() {
        assert!(value("/").starts_with("1.0\n2007-01-19\n"));
        assert!(value("/").ends_with("\n2021-07-15\n2022-09-24\n2024-04-11\nlatest"));
        assert_eq!(value("/latest"), "dynamic\nmeta-data\nuser-data");
        assert_eq!(
            value("/latest/meta-data/"),
            "ami-id\nami-launch-index\nami-manifest-path\nblock-device-mapping/\nevents/\n\
             hostname\ninstance-action\ninstance-id\ninstance-life-cycle\ninstance-type\n\
             local-hostname\nlocal-ipv4\nmac\nnetwork/\nplacement/\nprofile\npublic-keys/\n\
             reservation-id\nsecurity-groups\nservices/\nsystem\ntags/"
        );
        assert_eq!(value("/latest/meta-data/public-keys/"), "0=my key");
        assert_eq!(value("/latest/meta-data/public-keys/0"), "openssh-key");
        assert_eq!(value("/latest/dynamic/"), "fws/\ninstance-identity/");
        let documents = value("/latest/dynamic/instance-identity/");
        assert_eq!(documents, "document\npkcs7\nrsa2048\nsignature");
        let macs = value("/latest/meta-data/network/interfaces/macs/");
        assert_eq!(macs, "02:00:00:00:00:01/");
    }

    #[test]
    fn a_signature_that_is_not_made_yet_is_not_found() {
        let mut spec = spec();
        spec.ports[0].metadata.identity_signature.clear();
        let path = "/latest/dynamic/instance-identity";
        let signature = format!("{path}/signature");
        assert_eq!(status(&spec, &Method::GET, &signature, &[]), 404);
        let answer = ask(&spec, &Method::GET, path, &HeaderMap::new(), 0);
        assert_eq!(answer.response.body(), "document\npkcs7\nrsa2048");
    }

    #[test]
    fn values_are_those_of_the_port() {
        let base = "/latest/meta-data";
        let interface = format!("{base}/network/interfaces/macs/02:00:00:00:00:01");
        for (path, wanted) in [
            (format!("{base}/instance-id"), "i-00000000000000001"),
            (format!("{base}/ami-launch-index"), "3"),
            (
                format!("{base}/local-hostname"),
                "ip-172-31-0-11.ec2.internal",
            ),
            (format!("{base}/security-groups"), "web\ninner"),
            (
                format!("{base}/public-keys/0/openssh-key"),
                "ssh-ed25519 AAAA me",
            ),
            (format!("{base}/placement/availability-zone"), "us-east-1a"),
            (format!("{base}/placement/region"), "us-east-1"),
            (format!("{base}/services/domain"), "amazonaws.com"),
            (format!("{base}/system"), "xen"),
            (
                "/latest/dynamic/fws/instance-monitoring".to_owned(),
                "enabled",
            ),
            (format!("{base}/block-device-mapping/ami"), "/dev/vda"),
            (format!("{base}/tags/instance"), "Name"),
            (format!("{base}/tags/instance/Name"), "one"),
            (format!("{interface}/local-ipv4s"), "172.31.0.11"),
            (format!("{interface}/security-group-ids"), "sg-web\nsg-in"),
            (
                format!("{interface}/subnet-ipv4-cidr-block"),
                "172.31.0.0/20",
            ),
            (format!("{interface}/vpc-ipv4-cidr-blocks"), "172.31.0.0/16"),
            (
                "/latest/dynamic/instance-identity/signature".to_owned(),
                "c2ln",
            ),
        ] {
            assert_eq!(value(&path), wanted, "{path}");
        }
        let answer = ask(
            &spec(),
            &Method::GET,
            "/latest/user-data",
            &HeaderMap::new(),
            0,
        );
        assert_eq!(answer.response.body().as_ref(), b"#!/bin/sh\n\0\xff");
    }

    #[test]
    fn every_listed_path_exists() {
        let mut paths = vec![
            "/latest/meta-data/".to_owned(),
            "/latest/dynamic/".to_owned(),
        ];
        let mut values = 0;
        while let Some(path) = paths.pop() {
            for line in value(&path).lines() {
                let name = line.split_once('=').map_or(line, |(index, _)| index);
                let below = format!("{path}{name}");
                if line.ends_with('/') || line.contains('=') {
                    paths.push(format!("{}/", below.trim_end_matches('/')));
                } else {
                    value(&below);
                    values += 1;
                }
            }
        }
        assert!(values > 30, "{values}");
    }

    #[test]
    fn older_versions_have_what_they_had() {
        for version in [
            "2009-04-04",
            "2016-09-02",
            "2018-09-24",
            "2021-03-23",
            "latest",
        ] {
            let path = format!("/{version}/meta-data/instance-id");
            assert_eq!(value(&path), "i-00000000000000001");
        }
        assert_eq!(get("/2009-04-04/meta-data/network/").0, 404);
        assert_eq!(get("/2018-09-24/meta-data/tags/instance/").0, 404);
        assert!(!value("/2009-04-04/meta-data/").contains("network/"));
    }

    #[test]
    fn what_is_absent_is_not_found() {
        let mut spec = spec();
        let none = HeaderMap::new();
        for path in [
            "/nonsense",
            "/latest/nonsense",
            "/latest/meta-data/nonsense",
            "/latest/meta-data/instance-id/more",
            "/latest/meta-data/public-keys/1",
            "/latest/meta-data/public-ipv4",
            "/latest/meta-data/iam/security-credentials/",
            "/latest/user-data/more",
        ] {
            assert_eq!(
                ask(&spec, &Method::GET, path, &none, 0).response.status(),
                404
            );
        }
        spec.ports[0].metadata.user_data = None;
        let answer = ask(&spec, &Method::GET, "/latest/user-data", &none, 0);
        assert_eq!(answer.response.status(), 404);
        assert!(answer.response.body().starts_with(b"<?xml"));
        spec.ports[0].public_ip = Some(spec.ports[0].ip);
        let answer = ask(
            &spec,
            &Method::GET,
            "/latest/meta-data/public-hostname",
            &none,
            0,
        );
        let name = answer.response.body().as_ref();
        assert_eq!(name, b"ip-172-31-0-11.ec2.internal");
    }

    #[test]
    fn tokens_are_asked_for_properly_or_not_given() {
        let spec = spec();
        let put = |pairs: &[(&'static str, &str)]| {
            status(&spec, &Method::PUT, "/latest/api/token", pairs)
        };
        assert_eq!(put(&[(TTL, "1")]), 200);
        assert_eq!(put(&[(TTL, "21600")]), 200);
        for bad in ["0", "21601", "-1", "", "x", "99999999999999999999"] {
            assert_eq!(put(&[(TTL, bad)]), 400, "{bad}");
        }
        assert_eq!(put(&[]), 400);
        assert_eq!(put(&[(TTL, "60"), ("x-forwarded-for", "10.0.0.1")]), 403);
        assert_eq!(
            status(&spec, &Method::PUT, "/latest/user-data", &[(TTL, "60")]),
            404
        );
        assert_eq!(
            status(&spec, &Method::POST, "/latest/api/token", &[(TTL, "60")]),
            405
        );
    }

    #[test]
    fn a_token_is_valid_for_its_time_and_its_instance() {
        let mut spec = spec();
        spec.ports[0].metadata.tokens_required = true;
        let path = "/latest/meta-data/instance-id";
        let token = put_token(&spec, "60", 1000);
        let with = |spec: &VpcSpec, token: &str, now_s| {
            let headers = headers(&[(TOKEN, token)]);
            let answer = ask(spec, &Method::GET, path, &headers, now_s);
            answer.response.status().as_u16()
        };
        assert_eq!(token.len(), 56);
        assert_eq!(with(&spec, &token, 1000), 200);
        assert_eq!(with(&spec, &token, 1059), 200);
        assert_eq!(with(&spec, &token, 1060), 401);
        assert_eq!(status(&spec, &Method::GET, path, &[]), 401);
        let mut forged = token.clone().into_bytes();
        for at in 0..forged.len() - 2 {
            forged[at] ^= 1;
            let text = String::from_utf8_lossy(&forged).into_owned();
            assert_eq!(with(&spec, &text, 1000), 401, "{at}");
            forged[at] ^= 1;
        }
        // A wrong token is refused even where none is needed.
        spec.ports[0].metadata.tokens_required = false;
        assert_eq!(with(&spec, "wrong", 1000), 401);
        spec.ports[0].instance = "i-2".to_owned();
        assert_eq!(with(&spec, &token, 1000), 401);
        spec.ports[0].metadata.endpoint_enabled = false;
        assert_eq!(status(&spec, &Method::GET, path, &[]), 403);
        assert_eq!(
            status(&spec, &Method::PUT, "/latest/api/token", &[(TTL, "60")]),
            403
        );
    }

    proptest! {
        /// The fuzz target of the metadata server: whatever is asked, there is an answer.
        #[test]
        fn every_request_has_an_answer(
            method in "GET|PUT|HEAD|POST|DELETE|X{1,9}",
            path in "(/(latest|2009-04-04|1.0|api|token|meta-data|public-keys|network|\
                     interfaces|macs|dynamic|tags|instance|0|..|%2e|\\PC{0,9})){0,7}/?",
            token in proptest::option::of("[ -~]{0,80}"),
            ttl in proptest::option::of("[ -~]{0,24}|[0-9]{1,6}"),
            forwarded: bool,
            required: bool,
            now_s: u64,
        ) {
            let mut spec = spec();
            spec.ports[0].metadata.tokens_required = required;
            let mut pairs = Vec::new();
            pairs.extend(token.as_deref().map(|token| (TOKEN, token)));
            pairs.extend(ttl.as_deref().map(|ttl| (TTL, ttl)));
            if forwarded {
                pairs.push(("x-forwarded-for", "10.0.0.1"));
            }
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let answer = ask(&spec, &method, &path, &headers(&pairs), now_s);
            let status = answer.response.status().as_u16();
            prop_assert!([200, 400, 401, 403, 404, 405].contains(&status));
            prop_assert!(!(required && status == 200 && method == Method::GET));
        }
    }
}
