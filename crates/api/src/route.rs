//! Which service a request is for. All of them answer on one port, so that one
//! `AWS_ENDPOINT_URL` points every tool at Boira.
//!
//! Told apart in this order: a path below `/services/` (as Eucalyptus had them,
//! which euca2ools still sends) or `/boira/`, S3 Control's, the host of a bucket, the scope of the
//! credential, the credential of a form, `Action` (or a signature of version 2 in a form), else S3.

use crate::auth::RequestHead;
use crate::form;
use crate::shape::Service;
use crate::shapes::{SERVICES, ec2};
use crate::sigv4::{self, Scope};

/// Who answers a request.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A service with a table.
    Aws(&'static Service),
    /// Boira's own JSON API.
    Boira,
    S3,
    /// A service that isn't served here, by the name that the request has for it.
    Unserved(String),
}

/// Paths below `/services/`, in lower case, and the service that they mean.
const PATHS: [(&str, &str); 6] = [
    ("compute", "ec2"),
    ("cloud", "ec2"),
    ("eucalyptus", "ec2"),
    ("tokens", "sts"),
    ("objectstorage", "s3"),
    ("walrus", "s3"),
];

/// The version with which S3 Control's paths begin.
const S3_CONTROL: &str = "/v20180820/";

/// Finds the destination of a request.
///
/// `bucket_domains` are the domains whose subdomains are buckets. The head's
/// parameters need those of the body only when the body is a form: S3's uploads
/// needn't be read first.
pub fn destination(head: &RequestHead<'_>, bucket_domains: &[&str]) -> Destination {
    if let Some(rest) = head.path.strip_prefix("/services/") {
        let name = rest
            .split('/')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let service = PATHS.iter().find(|(path, _)| *path == name);
        return match service {
            Some((_, service)) => named(service),
            None => Destination::Unserved(name),
        };
    }
    if head.path.starts_with("/boira/") {
        return Destination::Boira;
    }
    // S3 Control has S3's name in its scope, and paths that could be objects'.
    if head.path.starts_with(S3_CONTROL) && head.header("x-amz-account-id").is_some() {
        return Destination::Unserved("s3control".into());
    }
    if head
        .header("host")
        .is_some_and(|host| is_bucket(host, bucket_domains))
    {
        return Destination::S3;
    }
    if let Some(scope) = scope(head) {
        return named(&scope.service);
    }
    // S3's presigned URLs of version 2 have a signature and no word about its version.
    if head.parameter("Action").is_some() || head.parameter("SignatureVersion").is_some() {
        by_version(head)
    } else {
        Destination::S3
    }
}

fn is_bucket(host: &str, domains: &[&str]) -> bool {
    let host = host
        .rsplit_once(':')
        .map_or(host, |(host, _)| host)
        .to_ascii_lowercase();
    domains.iter().any(|domain| {
        host.strip_suffix(&domain.to_ascii_lowercase())
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    })
}

/// The scope in the `Authorization` header, in a presigned URL, or in a form.
fn scope(head: &RequestHead<'_>) -> Option<Scope> {
    if let Some(scope) = head
        .header("authorization")
        .and_then(sigv4::header_credential)
    {
        return Some(scope);
    }
    sigv4::parse_credential(form::get(head.parameters, "X-Amz-Credential")?)
}

fn named(service: &str) -> Destination {
    match service {
        "s3" => Destination::S3,
        "boira" => Destination::Boira,
        _ => {
            let known = SERVICES.iter().find(|known| known.name == service);
            match known {
                Some(known) => Destination::Aws(known),
                None => Destination::Unserved(service.to_owned()),
            }
        }
    }
}

/// Without a scope (version 2, or unsigned) the version of the API tells; EC2's
/// own has many dates, so it is what is left.
fn by_version(head: &RequestHead<'_>) -> Destination {
    let version = head.parameter("Version").unwrap_or_default();
    let known = SERVICES.iter().find(|known| known.version == version);
    Destination::Aws(known.copied().unwrap_or(&ec2::SERVICE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str, query: &str, headers: &[(&str, &str)]) -> String {
        let headers: Vec<(&str, &[u8])> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let parameters = form::parse(query.as_bytes()).expect("well formed");
        let head = RequestHead {
            method: "POST",
            path,
            query: "",
            headers: &headers,
            parameters: &parameters,
        };
        match destination(&head, &["s3.cloud.example"]) {
            Destination::Aws(service) => service.name.to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn signed_for(service: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AK/20150830/r/{service}/aws4_request, SignedHeaders=host, Signature=00"
        )
    }

    #[test]
    fn the_path_goes_before_all() {
        let authorization = signed_for("sts");
        let headers = [
            ("authorization", authorization.as_str()),
            ("host", "b.s3.cloud.example"),
        ];
        assert_eq!(route("/services/compute/", "Action=A", &headers), "ec2");
        assert_eq!(route("/services/Tokens", "", &[]), "sts");
        assert_eq!(route("/boira/v1/nothing", "", &headers), "Boira");
        assert_eq!(
            route("/services/elsewhere", "", &headers),
            "Unserved(\"elsewhere\")"
        );
        let controls = [("x-amz-account-id", "1"), headers[0]];
        let tags = "/v20180820/tags/arn";
        assert_eq!(route(tags, "", &controls), "Unserved(\"s3control\")");
        assert_eq!(route(tags, "", &[]), "S3", "a bucket may be called so");
    }

    #[test]
    fn buckets_have_hosts() {
        let authorization = signed_for("ec2");
        for (host, expected) in [
            ("bucket.s3.cloud.example:8773", "S3"),
            ("a.b.S3.cloud.example", "S3"),
            ("s3.cloud.example", "ec2"),
            ("127.0.0.1:8773", "ec2"),
            ("evils3.cloud.example", "ec2"),
        ] {
            assert_eq!(
                route(
                    "/",
                    "",
                    &[("host", host), ("Authorization", &authorization)]
                ),
                expected,
                "{host}"
            );
        }
    }

    #[test]
    fn the_scope_names_the_service() {
        for (service, expected) in [
            ("ec2", "ec2"),
            ("sts", "sts"),
            ("s3", "S3"),
            ("boira", "Boira"),
            ("rds", "Unserved(\"rds\")"),
        ] {
            assert_eq!(
                route(
                    "/",
                    "Action=RunInstances",
                    &[("authorization", &signed_for(service))]
                ),
                expected
            );
            let presigned = format!("X-Amz-Credential=AK/20150830/r/{service}/aws4_request");
            assert_eq!(route("/", &presigned, &[]), expected);
        }
    }

    #[test]
    fn without_a_scope_the_version_tells() {
        assert_eq!(
            route(
                "/",
                "Action=RunInstances&Version=2012-03-01&AWSAccessKeyId=AK",
                &[]
            ),
            "ec2"
        );
        assert_eq!(
            route("/", "Action=GetCallerIdentity&Version=2011-06-15", &[]),
            "sts"
        );
        assert_eq!(
            route("/", "AWSAccessKeyId=AK&SignatureVersion=2&Signature=x", &[]),
            "ec2"
        );
        assert_eq!(route("/bucket/key", "", &[]), "S3");
        assert_eq!(
            route(
                "/bucket/key",
                "AWSAccessKeyId=AK&Expires=1&Signature=x",
                &[]
            ),
            "S3"
        );
        assert_eq!(
            route("/", "", &[("authorization", "AWS AK:signature")]),
            "S3"
        );
    }
}
