//! Cross-origin requests: whether a bucket lets a page of another origin at it, and the headers that
//! tell its browser (AWS, "Using cross-origin resource sharing"; the Fetch standard).

use crate::Store;
use crate::access::account;
use crate::error::{custom, malformed};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::sync::Arc;

/// Characters of a rule's name.
const MOST_ID: usize = 255;
const MOST_RULES: usize = 100;
const METHODS: [&str; 5] = ["GET", "PUT", "HEAD", "POST", "DELETE"];

/// What a browser asks, or does.
pub struct Asked<'a> {
    pub origin: &'a str,
    pub method: &'a str,
    /// `Access-Control-Request-Headers`.
    pub headers: Vec<&'a str>,
}

/// The headers for an answer, if a rule allows what is asked.
pub fn allowed(rules: &[CORSRule], asked: &Asked<'_>) -> Option<HeaderMap> {
    let rule = rules.iter().find(|rule| allows(rule, asked))?;
    let any = rule.allowed_origins.iter().any(|origin| origin == "*");
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(
        ACCESS_CONTROL_ALLOW_ORIGIN,
        if any { "*" } else { asked.origin },
    );
    if !any {
        set(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    set(
        ACCESS_CONTROL_ALLOW_METHODS,
        &rule.allowed_methods.join(", "),
    );
    if !asked.headers.is_empty() {
        set(
            ACCESS_CONTROL_ALLOW_HEADERS,
            &asked.headers.join(", ").to_ascii_lowercase(),
        );
    }
    if let Some(exposed) = rule
        .expose_headers
        .as_ref()
        .filter(|exposed| !exposed.is_empty())
    {
        set(ACCESS_CONTROL_EXPOSE_HEADERS, &exposed.join(", "));
    }
    if let Some(age) = rule.max_age_seconds {
        set(ACCESS_CONTROL_MAX_AGE, &age.to_string());
    }
    set(
        VARY,
        "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
    );
    Some(headers)
}

fn allows(rule: &CORSRule, asked: &Asked<'_>) -> bool {
    let headers = rule.allowed_headers.as_deref().unwrap_or_default();
    let header = |name: &&str| {
        let name = name.to_ascii_lowercase();
        headers
            .iter()
            .any(|pattern| fits(&pattern.to_ascii_lowercase(), &name))
    };
    rule.allowed_origins
        .iter()
        .any(|pattern| fits(pattern, asked.origin))
        && rule
            .allowed_methods
            .iter()
            .any(|method| method == asked.method)
        && asked.headers.iter().all(header)
}

/// A pattern has one `*` at most.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

pub fn is_method(method: &str) -> bool {
    METHODS.contains(&method)
}

fn judged(rules: &[CORSRule]) -> S3Result<()> {
    if rules.is_empty() || rules.len() > MOST_RULES {
        return Err(malformed());
    }
    for rule in rules {
        if let Some(method) = rule
            .allowed_methods
            .iter()
            .find(|method| !METHODS.contains(&method.as_str()))
        {
            return Err(custom(
                "InvalidRequest",
                StatusCode::BAD_REQUEST,
                format!(
                    "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
                ),
            ));
        }
        let origins = rule.allowed_origins.iter().map(|it| ("AllowedOrigin", it));
        let headers = rule.allowed_headers.iter().flatten();
        let headers = headers.map(|it| ("AllowedHeader", it));
        for (kind, pattern) in origins.chain(headers) {
            if pattern.matches('*').count() > 1 {
                return Err(custom(
                    "InvalidRequest",
                    StatusCode::BAD_REQUEST,
                    format!("{kind} \"{pattern}\" can not have more than one wildcard."),
                ));
            }
        }
        if rule
            .id
            .as_ref()
            .is_some_and(|id| id.chars().count() > MOST_ID)
        {
            return Err(custom(
                "InvalidRequest",
                StatusCode::BAD_REQUEST,
                "The ID of a CORS rule must not be longer than 255 characters",
            ));
        }
        if rule.max_age_seconds.is_some_and(|age| age < 0) {
            return Err(custom(
                "InvalidRequest",
                StatusCode::BAD_REQUEST,
                "MaxAgeSeconds must not be negative",
            ));
        }
        let exposed = rule.expose_headers.iter().flatten();
        if let Some(header) = exposed.into_iter().find(|header| header.contains('*')) {
            return Err(custom(
                "InvalidRequest",
                StatusCode::BAD_REQUEST,
                format!(
                    "ExposeHeader \"{header}\" contains wildcard. We currently do not support wildcard for ExposeHeader."
                ),
            ));
        }
        if rule.allowed_origins.is_empty() || rule.allowed_methods.is_empty() {
            return Err(malformed());
        }
    }
    Ok(())
}

impl Store {
    /// The rules of a bucket, whoever asks: a browser's question comes unsigned.
    pub fn cors_rules(&self, bucket: &str) -> Vec<CORSRule> {
        let known = self.db.known.get(bucket);
        let cors = known.and_then(|known| known.row.config.cors.clone());
        cors.map(|cors| cors.cors_rules).unwrap_or_default()
    }

    pub async fn get_bucket_cors(
        self: &Arc<Self>,
        request: S3Request<GetBucketCorsInput>,
    ) -> S3Result<GetBucketCorsOutput> {
        let bucket = self.bucket_of(&request, &request.input.bucket)?;
        match bucket.config.cors {
            Some(cors) => Ok(GetBucketCorsOutput {
                cors_rules: Some(cors.cors_rules),
            }),
            None => Err(s3_error!(
                NoSuchCORSConfiguration,
                "The CORS configuration does not exist"
            )),
        }
    }

    pub async fn put_bucket_cors(
        self: &Arc<Self>,
        request: S3Request<PutBucketCorsInput>,
    ) -> S3Result<PutBucketCorsOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let cors = input.cors_configuration;
        judged(&cors.cors_rules)?;
        self.set(account, input.bucket, move |config| {
            config.cors = Some(cors)
        })
        .await?;
        Ok(PutBucketCorsOutput::default())
    }

    pub async fn delete_bucket_cors(
        self: &Arc<Self>,
        request: S3Request<DeleteBucketCorsInput>,
    ) -> S3Result<DeleteBucketCorsOutput> {
        let account = account(&request.extensions)?;
        self.set(account, request.input.bucket, |config| config.cors = None)
            .await?;
        Ok(DeleteBucketCorsOutput::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origins: &[&str], methods: &[&str], headers: &[&str]) -> CORSRule {
        let list = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        CORSRule {
            allowed_origins: list(origins),
            allowed_methods: list(methods),
            allowed_headers: Some(list(headers)),
            ..Default::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules = [
            rule(&["https://*.example.org"], &["PUT"], &["x-amz-*"]),
            rule(&["*"], &["GET"], &[]),
        ];
        let asked = |origin, method, headers: &[&'static str]| {
            let asked = Asked {
                origin,
                method,
                headers: headers.to_vec(),
            };
            let headers = allowed(&rules, &asked)?;
            Some(
                headers[ACCESS_CONTROL_ALLOW_ORIGIN]
                    .to_str()
                    .unwrap()
                    .to_owned(),
            )
        };
        let site = "https://a.example.org";
        assert_eq!(asked(site, "PUT", &["X-Amz-Date"]).as_deref(), Some(site));
        assert_eq!(asked(site, "PUT", &["content-type"]), None);
        assert_eq!(asked(site, "GET", &[]).as_deref(), Some("*"));
        assert_eq!(asked("https://example.com", "PUT", &[]), None);
        assert!(judged(&[rule(&["*a*"], &["GET"], &[])]).is_err());
        assert!(judged(&[rule(&["a"], &["PATCH"], &[])]).is_err());
        assert!(judged(&rules).is_ok());
    }
}
