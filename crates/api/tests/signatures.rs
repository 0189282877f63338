//! Signatures against AWS's published examples and against botocore's.

use boira_api::auth::{self, AuthError, Claim, Demands, RequestHead};
use boira_api::sigv4::{self, Credentials};
use boira_api::{Protocol, form, time};
use proptest::prelude::*;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

const ACCESS_KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2015-08-30T12:36:00Z, the time of AWS's examples.
const NOW_MS: i64 = 1_440_938_160_000;

/// A request that owns its parts.
#[derive(Clone, Default)]
struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn new(method: &str, target: &str, headers: &[(&str, &str)]) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: String::new(),
        }
    }

    fn with_head<R>(&self, read: impl FnOnce(&RequestHead<'_>) -> R) -> R {
        let headers: Vec<(&str, &[u8])> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let mut parameters = form::parse(self.query.as_bytes()).unwrap_or_default();
        parameters.extend(form::parse(self.body.as_bytes()).unwrap_or_default());
        read(&RequestHead {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: &headers,
            parameters: &parameters,
        })
    }

    fn claim(&self) -> Result<Claim, AuthError> {
        self.with_head(auth::parse)
    }

    fn verify_as(&self, secret: &str, service: &str, now_ms: i64) -> Result<(), AuthError> {
        let demands = Demands {
            service,
            regions: &["us-east-1"],
            max_skew_ms: auth::max_skew_ms("ec2"),
        };
        let body = Sha256::digest(self.body.as_bytes()).into();
        self.with_head(|head| auth::parse(head)?.verify(secret, head, &body, &demands, now_ms))
    }

    fn header(&mut self, name: &str) -> &mut String {
        let found = self
            .headers
            .iter_mut()
            .find(|(present, _)| present.eq_ignore_ascii_case(name));
        &mut found.expect("the header is present").1
    }
}

/// Requests of AWS's Signature Version 4 test suite (service `service`).
fn suite(method: &str, target: &str, signature: &str) -> Request {
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
         SignedHeaders=host;x-amz-date, Signature={signature}"
    );
    let headers = [
        ("Host", "example.amazonaws.com"),
        ("X-Amz-Date", "20150830T123600Z"),
        ("Authorization", &authorization),
    ];
    Request::new(method, target, &headers)
}

#[test]
fn awss_test_suite_verifies() {
    let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    for (method, target, signature) in [
        ("GET", "/", vanilla),
        ("GET", "//", vanilla),
        ("GET", "/./", vanilla),
        ("GET", "/example/..", vanilla),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "POST",
            "/",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
    ] {
        assert_eq!(
            suite(method, target, signature).verify_as(SECRET, "service", NOW_MS),
            Ok(()),
            "{method} {target}"
        );
    }
}

#[test]
fn the_example_of_awss_documentation_verifies() {
    let request = Request::new(
        "GET",
        "/?Action=ListUsers&Version=2010-05-08",
        &[
            (
                "content-type",
                "application/x-www-form-urlencoded; charset=utf-8",
            ),
            ("host", "iam.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
                 SignedHeaders=content-type;host;x-amz-date, \
                 Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
            ),
        ],
    );
    let claim = request.claim().expect("well formed");
    assert_eq!(
        (claim.access_key(), claim.service()),
        (ACCESS_KEY, Some("iam"))
    );
    assert_eq!(request.verify_as(SECRET, "iam", NOW_MS), Ok(()));
}

/// The requests that `fixtures/sign.py` had botocore sign.
fn botocores() -> Vec<(String, String, Request)> {
    let fixture: Json =
        serde_json::from_str(include_str!("fixtures/signed.json")).expect("valid JSON");
    assert_eq!(fixture["now_s"], NOW_MS / 1000);
    let text = |value: &Json| value.as_str().expect("a string").to_owned();
    let requests = fixture["requests"].as_array().expect("an array");
    let request = |request: &Json| {
        let headers = request["headers"].as_object().expect("an object");
        let parsed = Request {
            method: text(&request["method"]),
            path: text(&request["path"]),
            query: text(&request["query"]),
            headers: headers
                .iter()
                .map(|(name, value)| (name.clone(), text(value)))
                .collect(),
            body: text(&request["body"]),
        };
        (text(&request["name"]), text(&request["service"]), parsed)
    };
    requests.iter().map(request).collect()
}

#[test]
fn what_botocore_signs_verifies_and_nothing_else() {
    let requests = botocores();
    assert!(requests.len() >= 9);
    for (name, service, request) in requests {
        let service = if service.is_empty() { "ec2" } else { &service };
        assert_eq!(request.verify_as(SECRET, service, NOW_MS), Ok(()), "{name}");
        assert_eq!(
            request.verify_as("wrong", service, NOW_MS),
            Err(AuthError::Mismatch),
            "{name}"
        );
        let late = request.verify_as(SECRET, service, NOW_MS + 2 * 3_600_000);
        assert!(matches!(late, Err(AuthError::Expired(_))), "{name}");

        let mut method = request.clone();
        method.method = "PUT".to_owned();
        let mut path = request.clone();
        path.path.push_str("other");
        let mut host = request.clone();
        *host.header("host") = "other".to_owned();
        let mut parameter = request.clone();
        parameter.query.push_str(if request.query.is_empty() {
            "DryRun=true"
        } else {
            "&DryRun=true"
        });
        let mut body = request.clone();
        body.body.push_str("&DryRun=true");
        for (part, changed) in [
            ("method", method),
            ("path", path),
            ("host", host),
            ("query", parameter),
            ("body", body),
        ] {
            assert_eq!(
                changed.verify_as(SECRET, service, NOW_MS),
                Err(AuthError::Mismatch),
                "{name}: {part}"
            );
        }
    }
}

#[test]
fn scope_and_time_are_checked() {
    let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    let request = suite("GET", "/", vanilla);
    assert!(matches!(
        request.verify_as(SECRET, "ec2", NOW_MS),
        Err(AuthError::Scope(_))
    ));
    let minutes = |minutes: i64| request.verify_as(SECRET, "service", NOW_MS + minutes * 60_000);
    assert_eq!((minutes(15), minutes(-15)), (Ok(()), Ok(())));
    assert!(matches!(minutes(16), Err(AuthError::Expired(_))));
    assert!(matches!(minutes(-16), Err(AuthError::Expired(_))));
    assert_eq!(auth::max_skew_ms("boira"), 5 * 60_000);

    let mut other_region = request.clone();
    *other_region.header("authorization") = request
        .clone()
        .header("authorization")
        .replace("us-east-1", "eu-west-9");
    assert!(matches!(
        other_region.verify_as(SECRET, "service", NOW_MS),
        Err(AuthError::Scope(_))
    ));
    let mut other_day = request.clone();
    *other_day.header("authorization") = request
        .clone()
        .header("authorization")
        .replace("20150830", "20150829");
    assert!(matches!(
        other_day.verify_as(SECRET, "service", NOW_MS),
        Err(AuthError::Scope(_))
    ));
}

#[test]
fn host_and_amz_headers_have_to_be_signed() {
    let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    let mut added = suite("GET", "/", vanilla);
    added
        .headers
        .push(("X-Amz-Target".to_owned(), "elsewhere".to_owned()));
    assert!(matches!(
        added.verify_as(SECRET, "service", NOW_MS),
        Err(AuthError::Incomplete(_))
    ));
    let mut hostless = suite("GET", "/", vanilla);
    *hostless.header("authorization") = hostless.header("authorization").replace("host;", "");
    assert!(matches!(
        hostless.verify_as(SECRET, "service", NOW_MS),
        Err(AuthError::Incomplete(_))
    ));
    let mut session = suite("GET", "/", vanilla);
    session
        .headers
        .push(("x-amz-security-token".to_owned(), "token".to_owned()));
    assert_eq!(session.claim().err(), Some(AuthError::SessionToken));
    let mut body = suite("GET", "/", vanilla);
    body.headers.push((
        "X-Amz-Content-Sha256".to_owned(),
        "UNSIGNED-PAYLOAD".to_owned(),
    ));
    *body.header("authorization") = body
        .header("authorization")
        .replace("host;", "host;x-amz-content-sha256;");
    assert_eq!(
        body.verify_as(SECRET, "service", NOW_MS),
        Err(AuthError::Mismatch)
    );
}

#[test]
fn presigned_urls_run_out() {
    let mut request = Request::new(
        "GET",
        "/?Action=DescribeRegions",
        &[("host", "127.0.0.1:8773")],
    );
    let credentials = Credentials {
        access_key: ACCESS_KEY,
        secret: SECRET,
    };
    request.query = request
        .with_head(|head| sigv4::presign(credentials, "us-east-1", "ec2", head, 3600, NOW_MS));
    assert_eq!(request.verify_as(SECRET, "ec2", NOW_MS + 3_599_000), Ok(()));
    assert!(matches!(
        request.verify_as(SECRET, "ec2", NOW_MS + 3_601_000),
        Err(AuthError::Expired(_))
    ));
    let mut longer = request.clone();
    longer.query = request
        .query
        .replace("X-Amz-Expires=3600", "X-Amz-Expires=3601");
    assert_eq!(
        longer.verify_as(SECRET, "ec2", NOW_MS),
        Err(AuthError::Mismatch)
    );
    let mut forever = request.clone();
    forever.query = request
        .query
        .replace("X-Amz-Expires=3600", "X-Amz-Expires=604801");
    assert!(matches!(forever.claim(), Err(AuthError::Incomplete(_))));
}

#[test]
fn unsigned_and_half_signed_requests_are_told_so() {
    let code = |request: &Request| {
        request
            .claim()
            .expect_err("no claim")
            .to_api_error(Protocol::Ec2)
    };
    let unsigned = code(&Request::new(
        "GET",
        "/?Action=DescribeRegions",
        &[("host", "h")],
    ));
    assert_eq!(
        (unsigned.code.as_ref(), unsigned.status),
        ("MissingAuthenticationToken", 403)
    );
    for (target, authorization) in [
        ("/", "Basic dXNlcjpwYXNz"),
        (
            "/",
            "AWS4-HMAC-SHA256 Credential=a/20150830/r/s/aws4_request",
        ),
        (
            "/",
            "AWS4-HMAC-SHA256 Credential=a/r/s, SignedHeaders=host, Signature=00",
        ),
    ] {
        let half = code(&Request::new(
            "GET",
            target,
            &[("authorization", authorization)],
        ));
        assert_eq!(
            (half.code.as_ref(), half.status),
            ("IncompleteSignature", 400),
            "{authorization}"
        );
    }
    for target in [
        "/?X-Amz-Algorithm=AWS4-HMAC-SHA256",
        "/?SignatureVersion=1",
        "/?Signature=x",
        "/?SignatureVersion=2",
    ] {
        assert_eq!(
            code(&Request::new("GET", target, &[])).code,
            "IncompleteSignature",
            "{target}"
        );
    }
}

#[test]
fn each_protocol_has_its_own_errors() {
    let of = |error: AuthError, protocol| {
        let error = error.to_api_error(protocol);
        (error.code.into_owned(), error.status)
    };
    let is = |code: &str, status: u16| (code.to_owned(), status);
    assert_eq!(
        of(AuthError::UnknownKey, Protocol::Ec2),
        is("AuthFailure", 401)
    );
    assert_eq!(
        of(AuthError::Mismatch, Protocol::Ec2),
        is("AuthFailure", 401)
    );
    assert_eq!(
        of(AuthError::SessionToken, Protocol::Ec2),
        is("AuthFailure", 401)
    );
    assert_eq!(
        of(AuthError::SessionToken, Protocol::Query),
        is("InvalidClientTokenId", 403)
    );
    assert_eq!(
        of(AuthError::UnknownKey, Protocol::Query),
        is("InvalidClientTokenId", 403)
    );
    assert_eq!(
        of(AuthError::Mismatch, Protocol::Query),
        is("SignatureDoesNotMatch", 403)
    );
    assert_eq!(
        of(AuthError::Expired(String::new()), Protocol::Ec2),
        is("RequestExpired", 400)
    );
    assert_eq!(
        of(AuthError::Expired(String::new()), Protocol::Query),
        is("SignatureDoesNotMatch", 403)
    );
}

proptest! {
    #[test]
    fn what_is_signed_here_verifies_here(
        path in "(/[a-zA-Z0-9.~ %é-]{0,6}){0,4}/?",
        query in proptest::collection::vec(("[a-zA-Z+é ]{1,4}", any::<String>()), 0..5),
        body: String,
    ) {
        let mut request = Request::new("POST", "/", &[("Host", "127.0.0.1:8773"), ("x-amz-x", " a  b ")]);
        request.path = path;
        request.body = body;
        for (name, value) in query {
            let mut pair = String::new();
            form::percent_encode(&mut pair, name.as_bytes(), b"");
            pair.push('=');
            form::percent_encode(&mut pair, value.as_bytes(), b"");
            request.query = format!("{}&{pair}", request.query);
        }
        let body = Sha256::digest(request.body.as_bytes()).into();
        let credentials = Credentials { access_key: ACCESS_KEY, secret: SECRET };
        let signed = request.with_head(|head| sigv4::sign(credentials, "us-east-1", "boira", head, &body, NOW_MS));
        request.headers.extend(signed.map(|(name, value)| (name.to_owned(), value)));
        prop_assert_eq!(request.verify_as(SECRET, "boira", NOW_MS), Ok(()));
    }

    #[test]
    fn no_authorization_panics(authorization in "(AWS4-HMAC-SHA256)?[ -~]{0,80}", date: String, secret: String) {
        let request = Request::new("GET", "/", &[("authorization", &authorization), ("x-amz-date", &date)]);
        let _ = request.verify_as(&secret, "ec2", NOW_MS);
    }

    #[test]
    fn no_mangled_signature_panics_or_passes(which: prop::sample::Index, at: prop::sample::Index, by in any::<char>()) {
        let requests = botocores();
        let (_, service, request) = which.get(&requests);
        let service = if service.is_empty() { "ec2" } else { service };
        let mut mangled = request.clone();
        let text = if request.headers.iter().any(|(name, _)| name == "Authorization") {
            mangled.header("Authorization")
        } else if mangled.query.is_empty() {
            &mut mangled.body
        } else {
            &mut mangled.query
        };
        let characters: Vec<char> = text.chars().collect();
        let at = at.index(characters.len());
        *text = characters.iter().enumerate().map(|(place, c)| if place == at { by } else { *c }).collect();
        // Another access key has another secret. Equal spellings of the same request
        // (hexadecimal case, `+` and `%20`) may pass.
        let same_key = mangled.claim().is_ok_and(|claim| claim.access_key() == ACCESS_KEY);
        if same_key && mangled.verify_as(SECRET, service, NOW_MS).is_ok() {
            let said = |request: &Request| request.with_head(|head| {
                let parameters = head.parameters.iter().filter(|(name, _)| !name.ends_with("Signature"));
                parameters.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
            });
            prop_assert_eq!(said(request), said(&mangled));
        }
    }

    #[test]
    fn no_credential_panics(text: String) {
        let _ = sigv4::parse_credential(&text);
        let _ = time::parse_basic(&text);
    }
}
