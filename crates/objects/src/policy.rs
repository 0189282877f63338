//! Bucket policies: judged when they are put, and asked at every request (AWS, "IAM JSON policy
//! elements reference" and "Actions, resources, and condition keys for Amazon S3").
//!
//! An explicit Deny counts before every Allow. The bucket's own account needs no Allow; others, and
//! who has no key, get only what a statement allows them.

mod action;
mod condition;
mod variable;
mod wild;

pub use action::action;

use crate::access::owner;
use condition::Condition;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use variable::check;
use wild::wild;

/// What a condition's key begins with that is followed by the name of a tag of the object.
pub const EXISTING_TAG: &str = "s3:existingobjecttag/";
/// What it begins with where the tag is one that the object is to get.
pub const ASKED_TAG: &str = "s3:requestobjecttag/";

/// The largest policy, in bytes.
pub const MOST_BYTES: usize = 20 << 10;

#[derive(Clone, Debug)]
pub struct Policy {
    statements: Vec<Statement>,
}

#[derive(Clone, Debug)]
struct Statement {
    allow: bool,
    principals: Principals,
    actions: Patterns,
    resources: Patterns,
    conditions: Vec<Condition>,
}

/// Names of accounts, or everybody; `except` is NotPrincipal.
#[derive(Clone, Debug)]
struct Principals {
    everybody: bool,
    accounts: Vec<String>,
    except: bool,
}

/// `*` and `?` as AWS has them; `except` is NotAction and NotResource.
#[derive(Clone, Debug)]
struct Patterns {
    patterns: Vec<String>,
    except: bool,
}

/// What is asked of a policy.
pub struct Question<'a> {
    /// The account; `None` for who has no key.
    pub account: Option<&'a str>,
    /// `s3:GetObject`
    pub action: &'a str,
    /// `arn:aws:s3:::bucket/key`
    pub resource: &'a str,
    /// Condition keys in lower case, and what they are in this request.
    pub context: &'a BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Allow,
    Deny,
    /// No statement is about it.
    Nothing,
}

impl Policy {
    /// Reads a policy for a bucket; the error is AWS's message.
    pub fn parse(text: &str, bucket: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text)
            .map_err(|_| "Policies must be valid JSON and the first byte must be '{'".to_owned())?;
        let Value::Object(mut policy) = value else {
            return Err("Policies must be valid JSON and the first byte must be '{'".into());
        };
        let has_variables = match policy
            .remove("Version")
            .as_ref()
            .map(|version| version.as_str())
        {
            Some(Some("2012-10-17")) => true,
            None | Some(Some("2008-10-17")) => false,
            Some(_) => return Err("The policy must contain a valid version string".into()),
        };
        policy.remove("Id");
        let statements = match policy.remove("Statement") {
            Some(Value::Array(statements)) if !statements.is_empty() => statements,
            Some(statement @ Value::Object(_)) => vec![statement],
            _ => return Err("Missing required field Statement".into()),
        };
        if let Some(name) = policy.keys().next() {
            return Err(format!("Unknown field {name}"));
        }
        let statements = statements
            .into_iter()
            .map(|statement| Statement::parse(statement, bucket, has_variables));
        Ok(Self {
            statements: statements.collect::<Result<_, _>>()?,
        })
    }

    /// What keeps everybody out, for a policy that can't be read any more: its denials must not be lost.
    pub fn denying() -> Self {
        let everything = || Patterns {
            patterns: vec!["*".into()],
            except: false,
        };
        let everybody = Principals {
            everybody: true,
            accounts: Vec::new(),
            except: false,
        };
        Self {
            statements: vec![Statement {
                allow: false,
                principals: everybody,
                actions: everything(),
                resources: everything(),
                conditions: Vec::new(),
            }],
        }
    }

    /// Whether all actions that it names are some.
    pub fn means_something(&self) -> bool {
        let mut statements = self.statements.iter();
        statements.all(|statement| {
            let mut patterns = statement.actions.patterns.iter();
            patterns.all(|pattern| action::is_known(pattern))
        })
    }

    /// Whether each action that it names can be done to a resource that is named beside it: what is done to
    /// a bucket to the bucket, what is done to an object to what is in it.
    pub fn is_of_one_piece(&self) -> bool {
        self.statements.iter().all(|statement| {
            let (actions, resources) = (&statement.actions, &statement.resources);
            let mut named = resources.patterns.iter();
            let objects = named.any(|name| name.contains(['/', '*', '?']));
            let mut named = resources.patterns.iter();
            let buckets = named.any(|name| !name.contains('/'));
            let fits = |pattern: &String| {
                let (of_buckets, of_objects) = action::kinds(pattern);
                (of_buckets && buckets) || (of_objects && objects)
            };
            actions.except || resources.except || actions.patterns.iter().all(fits)
        })
    }

    /// The accounts that it names, by their numbers or canonical user ids.
    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        let statements = self.statements.iter();
        let named = statements.flat_map(|statement| &statement.principals.accounts);
        named.map(String::as_str)
    }

    pub fn answer(&self, question: &Question<'_>) -> Answer {
        let mut answer = Answer::Nothing;
        for statement in self
            .statements
            .iter()
            .filter(|statement| statement.is_about(question))
        {
            if !statement.allow {
                return Answer::Deny;
            }
            answer = Answer::Allow;
        }
        answer
    }

    /// Whether it depends on the tags that an object is to get.
    pub fn asks_for_tags(&self) -> bool {
        let mut conditions = self.statements.iter().flat_map(|one| &one.conditions);
        conditions.any(|condition| condition.key().starts_with("s3:requestobjecttag"))
    }

    /// Whether it lets everybody in (AWS, "The meaning of 'public'").
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(|statement| {
            let open = statement.principals.everybody || statement.principals.except;
            statement.allow && open && !statement.conditions.iter().any(Condition::narrows)
        })
    }
}

fn texts(value: Value) -> Option<Vec<String>> {
    let text = |value: Value| match value {
        Value::String(text) => Some(text),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        Value::Array(values) => values.into_iter().map(text).collect(),
        one => Some(vec![text(one)?]),
    }
}

impl Statement {
    fn parse(value: Value, bucket: &str, has_variables: bool) -> Result<Self, String> {
        let Value::Object(mut fields) = value else {
            return Err("Statement is of invalid type".into());
        };
        fields.remove("Sid");
        let allow = match fields.remove("Effect").as_ref().and_then(Value::as_str) {
            Some("Allow") => true,
            Some("Deny") => false,
            Some(other) => return Err(format!("Invalid effect: {other}")),
            None => return Err("Missing required field Effect".into()),
        };
        let principals = Principals::parse(&mut fields)?;
        let actions = Patterns::take(&mut fields, "Action")?;
        let of_s3 = |action: &String| {
            let start = action.get(..3);
            action == "*" || start.is_some_and(|start| start.eq_ignore_ascii_case("s3:"))
        };
        if !actions.patterns.iter().all(of_s3) {
            return Err("Policy has invalid action".into());
        }
        let mut resources = Patterns::take(&mut fields, "Resource")?;
        // One may be about more buckets than its own.
        let is_own = |resource: &String| {
            resource.strip_prefix("arn:aws:s3:::").is_some_and(|rest| {
                let name = rest.split('/').next().unwrap_or_default();
                wild(name, bucket)
            })
        };
        if !resources.patterns.iter().all(is_own) {
            return Err("Policy has invalid resource".into());
        }
        if !has_variables {
            resources.patterns.iter_mut().for_each(variable::disarm);
        }
        resources.patterns.iter().try_for_each(|text| check(text))?;
        let conditions = match fields.remove("Condition") {
            None => Vec::new(),
            Some(Value::Object(conditions)) => Condition::parse_all(conditions, has_variables)?,
            Some(_) => return Err("Condition is of invalid type".into()),
        };
        if let Some(name) = fields.keys().next() {
            return Err(format!("Unknown field {name}"));
        }
        Ok(Self {
            allow,
            principals,
            actions,
            resources,
            conditions,
        })
    }

    fn is_about(&self, question: &Question<'_>) -> bool {
        let action = question.action.to_ascii_lowercase();
        self.principals.include(question.account)
            && self
                .actions
                .include(|pattern| wild(&pattern.to_ascii_lowercase(), &action))
            && self
                .resources
                .include(|pattern| variable::fits(pattern, question.context, question.resource))
            && self
                .conditions
                .iter()
                .all(|condition| condition.holds(question.context))
    }
}

impl Principals {
    fn parse(fields: &mut Map<String, Value>) -> Result<Self, String> {
        let (value, except) = match (fields.remove("Principal"), fields.remove("NotPrincipal")) {
            (Some(value), None) => (value, false),
            (None, Some(value)) => (value, true),
            _ => return Err("Missing required field Principal".into()),
        };
        let invalid = || "Invalid principal in policy".to_owned();
        let mut principals = Self {
            everybody: false,
            accounts: Vec::new(),
            except,
        };
        if value == "*" {
            principals.everybody = true;
            return Ok(principals);
        }
        let Value::Object(kinds) = value else {
            return Err(invalid());
        };
        for (kind, value) in kinds {
            for name in texts(value).ok_or_else(invalid)? {
                match kind.as_str() {
                    "AWS" if name == "*" => principals.everybody = true,
                    "AWS" => principals
                        .accounts
                        .push(account_of(&name).ok_or_else(invalid)?),
                    "CanonicalUser" if name.len() == 64 => principals.accounts.push(name),
                    // There are none of those here, so nobody is one of them.
                    "Service" | "Federated" => {}
                    _ => return Err(invalid()),
                }
            }
        }
        Ok(principals)
    }

    fn include(&self, account: Option<&str>) -> bool {
        let named = account.is_some_and(|account| {
            let canonical = owner(account).id.unwrap_or_default();
            self.accounts
                .iter()
                .any(|one| one == account || *one == canonical)
        });
        (self.everybody || named) != self.except
    }
}

/// An account by its number or by the ARN of its root; users inside accounts come later.
fn account_of(name: &str) -> Option<String> {
    let number = match name.strip_prefix("arn:aws:iam::") {
        Some(rest) => rest.strip_suffix(":root")?,
        None => name,
    };
    let fine = number.len() == 12 && number.bytes().all(|byte| byte.is_ascii_digit());
    fine.then(|| number.to_owned())
}

impl Patterns {
    fn take(fields: &mut Map<String, Value>, name: &str) -> Result<Self, String> {
        let (value, except) = match (fields.remove(name), fields.remove(&format!("Not{name}"))) {
            (Some(value), None) => (value, false),
            (None, Some(value)) => (value, true),
            _ => return Err(format!("Missing required field {name}")),
        };
        let patterns = texts(value).filter(|patterns| !patterns.is_empty());
        let patterns =
            patterns.ok_or_else(|| format!("Policy has invalid {}", name.to_lowercase()))?;
        Ok(Self { patterns, except })
    }

    fn include(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.patterns.iter().any(|pattern| fits(pattern)) != self.except
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(statement: Value) -> Policy {
        let text = json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string();
        Policy::parse(&text, "b").unwrap()
    }

    fn ask(
        policy: &Policy,
        account: Option<&str>,
        action: &str,
        key: &str,
        context: &[(&str, &str)],
    ) -> Answer {
        let context = context
            .iter()
            .map(|(key, value)| (key.to_string(), vec![value.to_string()]))
            .collect();
        let resource = format!("arn:aws:s3:::b/{key}");
        policy.answer(&Question {
            account,
            action,
            resource: &resource,
            context: &context,
        })
    }

    #[test]
    fn who_what_and_where() {
        let open = policy(json!({
            "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/pub/*"
        }));
        assert!(open.is_public());
        assert_eq!(
            ask(&open, None, "s3:GetObject", "pub/x", &[]),
            Answer::Allow
        );
        assert_eq!(ask(&open, None, "s3:GetObject", "x", &[]), Answer::Nothing);
        assert_eq!(
            ask(&open, None, "s3:PutObject", "pub/x", &[]),
            Answer::Nothing
        );
        let friend = policy(json!({
            "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
            "Action": ["s3:get*", "s3:Put?bject"], "Resource": "arn:aws:s3:::b/*"
        }));
        assert!(!friend.is_public());
        assert_eq!(
            ask(&friend, Some("123456789012"), "s3:GetObject", "k", &[]),
            Answer::Allow
        );
        assert_eq!(
            ask(&friend, Some("123456789012"), "s3:PutObject", "k", &[]),
            Answer::Allow
        );
        assert_eq!(
            ask(&friend, Some("999999999999"), "s3:GetObject", "k", &[]),
            Answer::Nothing
        );
        assert_eq!(
            ask(&friend, None, "s3:GetObject", "k", &[]),
            Answer::Nothing
        );
        let others = policy(json!({
            "Effect": "Deny", "NotPrincipal": {"AWS": ["123456789012"]},
            "NotAction": "s3:ListBucket", "Resource": "arn:aws:s3:::b/*"
        }));
        assert_eq!(
            ask(&others, Some("123456789012"), "s3:GetObject", "k", &[]),
            Answer::Nothing
        );
        assert_eq!(
            ask(&others, Some("999999999999"), "s3:GetObject", "k", &[]),
            Answer::Deny
        );
        assert_eq!(
            ask(&others, Some("999999999999"), "s3:ListBucket", "k", &[]),
            Answer::Nothing
        );
    }

    #[test]
    fn conditions() {
        let holds = |operator: &str, key: &str, value: Value, found: &[(&str, &str)]| {
            let policy = policy(json!({
                "Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::b/*",
                "Condition": { operator: { key: value } }
            }));
            ask(&policy, None, "s3:GetObject", "k", found) == Answer::Allow
        };
        let ip = "aws:sourceip";
        assert!(holds(
            "IpAddress",
            "aws:SourceIp",
            json!("10.0.0.0/8"),
            &[(ip, "10.1.2.3")]
        ));
        assert!(!holds(
            "IpAddress",
            "aws:SourceIp",
            json!("10.0.0.0/8"),
            &[(ip, "11.1.2.3")]
        ));
        assert!(holds(
            "NotIpAddress",
            "aws:SourceIp",
            json!(["10.0.0.0/8"]),
            &[(ip, "11.1.2.3")]
        ));
        assert!(holds(
            "IpAddress",
            "aws:SourceIp",
            json!("0.0.0.0/0"),
            &[(ip, "11.1.2.3")]
        ));
        let prefix = "s3:prefix";
        assert!(holds(
            "StringLike",
            prefix,
            json!(["a/*", "b/*"]),
            &[(prefix, "b/x")]
        ));
        assert!(!holds("StringLike", prefix, json!("a/*"), &[]));
        assert!(holds("StringLikeIfExists", prefix, json!("a/*"), &[]));
        assert!(holds(
            "StringNotEquals",
            prefix,
            json!("a"),
            &[(prefix, "b")]
        ));
        assert!(!holds(
            "StringNotEquals",
            prefix,
            json!(["a", "b"]),
            &[(prefix, "b")]
        ));
        assert!(holds(
            "Bool",
            "aws:SecureTransport",
            json!("true"),
            &[("aws:securetransport", "true")]
        ));
        assert!(holds("Null", prefix, json!(true), &[]));
        assert!(!holds("Null", prefix, json!("true"), &[(prefix, "x")]));
        assert!(holds(
            "NumericLessThanEquals",
            "s3:max-keys",
            json!(10),
            &[("s3:max-keys", "10")]
        ));
        assert!(!holds(
            "NumericLessThan",
            "s3:max-keys",
            json!(10),
            &[("s3:max-keys", "10")]
        ));
        let now = ("aws:currenttime", "2026-11-29T08:00:00Z");
        assert!(holds(
            "DateGreaterThan",
            "aws:CurrentTime",
            json!("2026-11-28T00:00:00Z"),
            &[now]
        ));
        assert!(!holds(
            "DateLessThan",
            "aws:CurrentTime",
            json!("2026-11-28"),
            &[now]
        ));
    }

    #[test]
    fn nonsense_is_refused() {
        let wrong = |statement: Value| {
            let text = json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string();
            Policy::parse(&text, "b").unwrap_err()
        };
        let base = json!({"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::b/*"});
        let with = |name: &str, value: Value| {
            let mut statement = base.clone();
            statement[name] = value;
            statement
        };
        for (statement, message) in [
            (
                with("Resource", json!("arn:aws:s3:::other/*")),
                "Policy has invalid resource",
            ),
            (
                with("Resource", json!("arn:aws:s3:::bb")),
                "Policy has invalid resource",
            ),
            (with("Action", json!("ec2:*")), "Policy has invalid action"),
            (with("Effect", json!("Maybe")), "Invalid effect: Maybe"),
            (
                with("Principal", json!({"AWS": "someone"})),
                "Invalid principal in policy",
            ),
            (with("Extra", json!(1)), "Unknown field Extra"),
            (
                with("Condition", json!({"Sounds": {"aws:SourceIp": "x"}})),
                "Invalid Condition type : Sounds",
            ),
            (
                with("Condition", json!({"StringEquals": {"aws:Mood": "x"}})),
                "Policy has an invalid condition key: aws:Mood",
            ),
            (
                with("Condition", json!({"IpAddress": {"aws:SourceIp": "x"}})),
                "Invalid IP address in Conditions",
            ),
        ] {
            assert_eq!(wrong(statement), message);
        }
        assert!(Policy::parse("[]", "b").is_err());
        let quiet = with(
            "Condition",
            json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}),
        );
        assert!(!policy(quiet).is_public());
    }

    #[test]
    fn actions_are_done_to_what_is_named_beside_them() {
        let fits = |actions: Value, resources: Value| {
            policy(json!({
                "Effect": "Allow", "Principal": "*", "Action": actions, "Resource": resources
            }))
            .is_of_one_piece()
        };
        let (bucket, objects) = ("arn:aws:s3:::b", "arn:aws:s3:::b/*");
        assert!(fits(json!("s3:GetObject"), json!(objects)));
        assert!(fits(json!("s3:ListBucket"), json!(bucket)));
        assert!(fits(
            json!(["s3:ListBucket", "s3:GetObject"]),
            json!([bucket, objects])
        ));
        assert!(fits(json!("s3:*"), json!(bucket)) && fits(json!("s3:*"), json!(objects)));
        assert!(fits(json!("s3:GetObject"), json!("arn:aws:s3:::b*")));
        assert!(!fits(json!("s3:GetObject"), json!(bucket)));
        assert!(!fits(json!("s3:ListBucket"), json!(objects)));
        assert!(!fits(
            json!(["s3:ListBucket", "s3:GetObject"]),
            json!(objects)
        ));
    }

    #[test]
    fn who_is_only_named_by_a_variable_is_everybody() {
        for (account, public) in [("${aws:PrincipalAccount}", true), ("123456789012", false)] {
            let open = policy(json!({
                "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*",
                "Condition": { "StringEquals": { "aws:PrincipalAccount": account } }
            }));
            assert_eq!(open.is_public(), public, "{account}");
        }
    }

    /// AWS, "IAM policy elements: Variables and tags": they came with the version 2012-10-17.
    #[test]
    fn old_policies_have_no_variables() {
        for (version, plain) in [
            (json!("2012-10-17"), false),
            (json!("2008-10-17"), true),
            (json!(null), true),
        ] {
            let mut document = json!({ "Statement": [{
                "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                "Resource": "arn:aws:s3:::b/${aws:PrincipalAccount}/*"
            }] });
            if !version.is_null() {
                document["Version"] = version;
            }
            let policy = Policy::parse(&document.to_string(), "b").unwrap();
            let asks = |key: &str| {
                ask(
                    &policy,
                    None,
                    "s3:GetObject",
                    key,
                    &[("aws:principalaccount", "1")],
                ) == Answer::Allow
            };
            assert_eq!(asks("${aws:PrincipalAccount}/k"), plain, "{document}");
            assert_eq!(asks("1/k"), !plain, "{document}");
        }
    }

    #[test]
    fn what_is_stored_is_read_and_what_cant_be_keeps_everybody_out() {
        let odd = policy(json!({
            "Effect": "Deny", "Principal": "*", "Action": ["s3:GetObjcet", "s3:GetObject"],
            "Resource": "arn:aws:s3:::b/*"
        }));
        assert!(!odd.means_something(), "it isn't taken any more");
        assert_eq!(ask(&odd, None, "s3:GetObject", "k", &[]), Answer::Deny);
        let denying = Policy::denying();
        for account in [None, Some("123456789012")] {
            assert_eq!(
                ask(&denying, account, "s3:ListBucket", "k", &[]),
                Answer::Deny
            );
        }
        assert!(!denying.is_public());
    }
}
