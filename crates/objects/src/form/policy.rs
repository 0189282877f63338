//! What a form's policy lets it have (AWS, "POST Policy").

use crate::error::custom;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use s3s::dto::{Timestamp, TimestampFormat};
use s3s::{S3Error, S3Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Fields that no policy has to name.
const UNNAMED: [&str; 5] = [
    "awsaccesskeyid",
    "file",
    "policy",
    "signature",
    "x-amz-signature",
];

#[derive(Debug)]
pub struct Policy {
    expires: Timestamp,
    conditions: Vec<Condition>,
}

/// Names of fields are in lower case.
#[derive(Debug)]
enum Condition {
    Equals(String, String),
    StartsWith(String, String),
    Length(u64, u64),
}

fn invalid(why: &str) -> S3Error {
    custom(
        "InvalidPolicyDocument",
        StatusCode::BAD_REQUEST,
        format!("Invalid Policy: {why}"),
    )
}

fn refused(why: &str) -> S3Error {
    custom(
        "AccessDenied",
        StatusCode::FORBIDDEN,
        format!("Invalid according to Policy: {why}"),
    )
}

impl Policy {
    /// Of the base64 that was signed.
    pub fn parse(encoded: &str) -> S3Result<Self> {
        let text = STANDARD
            .decode(encoded)
            .ok()
            .and_then(|text| String::from_utf8(text).ok());
        let text = text.ok_or_else(|| invalid("Invalid JSON."))?;
        let value: Value =
            serde_json::from_str(&without_dollars(&text)).map_err(|_| invalid("Invalid JSON."))?;
        let Value::Object(mut document) = value else {
            return Err(invalid("Invalid JSON."));
        };
        let expires = document.remove("expiration");
        let expires = expires.as_ref().and_then(Value::as_str);
        let expires = expires.ok_or_else(|| invalid("Policy missing expiration."))?;
        let expires = expiration(expires).ok_or_else(|| invalid("Invalid 'expiration' value."))?;
        let conditions = match document.remove("conditions") {
            Some(Value::Array(conditions)) => conditions,
            Some(_) => return Err(invalid("Invalid 'conditions' value: must be a List.")),
            None => return Err(invalid("Policy missing conditions.")),
        };
        if let Some(name) = document.keys().next() {
            return Err(invalid(&format!("Unexpected: '{name}'.")));
        }
        let mut policy = Self {
            expires,
            conditions: Vec::new(),
        };
        for condition in conditions {
            Condition::parse(condition, &mut policy.conditions)?;
        }
        Ok(policy)
    }

    /// Whether a form may have these fields; answers how long its file may be, in bytes.
    pub fn allows(
        &self,
        fields: &BTreeMap<String, String>,
        bucket: &str,
        now_ms: i64,
    ) -> S3Result<(u64, u64)> {
        if self.expires <= Timestamp::from(crate::conditions::time(now_ms)) {
            return Err(refused("Policy expired."));
        }
        let value = |name: &str| match name {
            "bucket" => bucket,
            _ => fields.get(name).map(String::as_str).unwrap_or_default(),
        };
        let (mut least, mut most) = (0, u64::MAX);
        let mut named = BTreeSet::new();
        for condition in &self.conditions {
            let (operator, name, wanted, holds) = match condition {
                Condition::Length(from, to) => {
                    (least, most) = (least.max(*from), most.min(*to));
                    continue;
                }
                Condition::Equals(name, wanted) => ("eq", name, wanted, value(name) == wanted),
                Condition::StartsWith(name, start) => {
                    let starts = match name.as_str() {
                        // One may have several types.
                        "content-type" => value(name)
                            .split(',')
                            .all(|one| one.starts_with(start.as_str())),
                        _ => value(name).starts_with(start.as_str()),
                    };
                    ("starts-with", name, start, starts)
                }
            };
            if !holds {
                return Err(refused(&format!(
                    "Policy Condition failed: [\"{operator}\", \"${name}\", \"{wanted}\"]"
                )));
            }
            named.insert(name.as_str());
        }
        let extra = |name: &&str| {
            !named.contains(name) && !UNNAMED.contains(name) && !name.starts_with("x-ignore-")
        };
        let mut all = fields.keys().map(String::as_str).chain(["bucket"]);
        match all.find(extra) {
            Some(name) => Err(refused(&format!("Extra input fields: {name}"))),
            None => Ok((least, most)),
        }
    }
}

/// `\$` is a dollar sign, which isn't so in JSON (AWS, "POST Policy", "Character Escaping").
fn without_dollars(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('$')) => {}
            ('\\', Some(_)) => {
                plain.push(c);
                plain.extend(chars.next());
            }
            _ => plain.push(c),
        }
    }
    plain
}

/// `2007-12-01T12:00:00.000Z`: ISO 8601, in UTC.
fn expiration(text: &str) -> Option<Timestamp> {
    let (_, time) = text.split_once('T')?;
    let fine = time.ends_with('Z') && !time.contains(['+', '-', ' ']);
    fine.then(|| Timestamp::parse(TimestampFormat::DateTime, text).ok())?
}

impl Condition {
    fn parse(value: Value, into: &mut Vec<Self>) -> S3Result<()> {
        let wrong = || invalid("Invalid Simple-Condition: each has a name and a value.");
        match value {
            Value::Object(pairs) if pairs.len() == 1 => {
                for (name, wanted) in pairs {
                    let wanted = text(&wanted).ok_or_else(wrong)?;
                    into.push(Self::Equals(name.to_ascii_lowercase(), wanted));
                }
                Ok(())
            }
            Value::Array(parts) => {
                let [operator, first, second] = &parts[..] else {
                    return Err(invalid("Invalid Condition: three parts are needed."));
                };
                into.push(Self::of_three(operator, first, second)?);
                Ok(())
            }
            _ => Err(wrong()),
        }
    }

    fn of_three(operator: &Value, first: &Value, second: &Value) -> S3Result<Self> {
        let operator = operator.as_str().unwrap_or_default().to_ascii_lowercase();
        if operator == "content-length-range" {
            let number = |value: &Value| match value {
                Value::Number(number) => number.as_u64(),
                Value::String(text) => text.parse().ok(),
                _ => None,
            };
            return match (number(first), number(second)) {
                (Some(least), Some(most)) => Ok(Self::Length(least, most)),
                _ => Err(invalid(
                    "Invalid content-length-range: two numbers are needed.",
                )),
            };
        }
        let name = first.as_str().and_then(|name| name.strip_prefix('$'));
        let (Some(name), Some(wanted)) = (name, text(second)) else {
            return Err(invalid(
                "Invalid Condition: the second part is a $field, the third a text.",
            ));
        };
        let name = name.to_ascii_lowercase();
        match operator.as_str() {
            "eq" => Ok(Self::Equals(name, wanted)),
            "starts-with" => Ok(Self::StartsWith(name, wanted)),
            other => Err(invalid(&format!("Unknown operator '{other}'."))),
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_795_939_200_000; // 2026-11-29T08:00:00Z
    const SOON: &str = "2026-11-29T09:00:00.000Z";

    fn judged(document: &str, fields: &[(&str, &str)]) -> Result<(u64, u64), String> {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        Policy::parse(&STANDARD.encode(document))
            .and_then(|policy| policy.allows(&fields.collect(), "b", NOW_MS))
            .map_err(|error| error.message().unwrap_or_default().to_owned())
    }

    fn of(conditions: &str, fields: &[(&str, &str)]) -> Result<(u64, u64), String> {
        judged(
            &format!(r#"{{"expiration": "{SOON}", "conditions": [{conditions}]}}"#),
            fields,
        )
    }

    #[test]
    fn conditions() {
        let base = r#"{"bucket": "b"}, ["starts-with", "$key", "up/"], ["starts-with", "$Content-Type", "image/"]"#;
        let fine = [
            ("key", "up/x"),
            ("content-type", "image/png,image/jpeg"),
            ("x-ignore-a", "1"),
        ];
        assert_eq!(of(base, &fine), Ok((0, u64::MAX)));
        assert_eq!(
            of(
                &format!(r#"{base}, ["content-length-range", 1, "10"]"#),
                &fine
            ),
            Ok((1, 10))
        );
        for (fields, why) in [
            (vec![("key", "x"), fine[1]], "Policy Condition failed"),
            (
                vec![fine[0], ("content-type", "image/png,text/plain")],
                "Policy Condition failed",
            ),
            (vec![fine[0]], "Policy Condition failed"),
            (
                vec![fine[0], fine[1], ("acl", "private")],
                "Extra input fields: acl",
            ),
        ] {
            assert!(of(base, &fields).unwrap_err().contains(why), "{fields:?}");
        }
        assert!(
            of(r#"["eq", "$key", "k"]"#, &[("key", "k")])
                .unwrap_err()
                .contains("Extra input fields: bucket")
        );
        let escaped = r#"{"bucket": "b"}, {"key": "a\$b\\$"}"#;
        assert_eq!(of(escaped, &[("key", "a$b\\$")]), Ok((0, u64::MAX)));
    }

    #[test]
    fn what_is_no_policy() {
        for (document, why) in [
            ("[]", "Invalid JSON"),
            (r#"{"conditions": []}"#, "missing expiration"),
            (
                r#"{"expiration": "2026-11-29T09:00:00Z"}"#,
                "missing conditions",
            ),
            (
                r#"{"expiration": "2026-11-29T09:00:00Z", "CONDITIONS": []}"#,
                "missing conditions",
            ),
            (
                r#"{"expiration": "2026-11-29 09:00:00+00:00", "conditions": []}"#,
                "Invalid 'expiration'",
            ),
            (
                r#"{"expiration": "2026-11-29T07:00:00Z", "conditions": []}"#,
                "expired",
            ),
            (
                r#"{"expiration": "2026-11-29T09:00:00Z", "conditions": {}}"#,
                "must be a List",
            ),
        ] {
            assert!(
                judged(document, &[]).unwrap_err().contains(why),
                "{document}"
            );
        }
        for wrong in [
            r#"["eq", "key", "k"]"#,
            r#"["like", "$key", "k"]"#,
            r#"["content-length-range", 1]"#,
            r#"["content-length-range", -1, 5]"#,
            r#"{"a": "1", "b": "2"}"#,
            "7",
        ] {
            assert!(
                of(wrong, &[]).unwrap_err().starts_with("Invalid Policy"),
                "{wrong}"
            );
        }
    }
}
