//! Conditions of a policy's statement: operators, keys, and whether they hold in a request (AWS, "IAM
//! JSON policy elements: Condition operators").

use super::variable::{check, disarm, filled, fits};
use super::{ASKED_TAG, EXISTING_TAG, texts};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Clone, Debug)]
pub struct Condition {
    operator: Operator,
    /// Whether it holds where the key is absent.
    if_exists: bool,
    /// `ForAllValues:`; else one value that fits is enough.
    all: bool,
    /// In lower case, as keys are compared.
    key: String,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Text {
        like: bool,
        any_case: bool,
        not: bool,
    },
    Number(Order),
    Date(Order),
    Bool,
    Address {
        not: bool,
    },
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Condition {
    pub fn parse_all(
        conditions: Map<String, Value>,
        has_variables: bool,
    ) -> Result<Vec<Self>, String> {
        let mut found = Vec::new();
        for (name, keys) in conditions {
            let invalid = || format!("Invalid Condition type : {name}");
            let Value::Object(keys) = keys else {
                return Err(invalid());
            };
            let (rest, all) = match name.split_once(':') {
                Some(("ForAllValues", rest)) => (rest, true),
                Some(("ForAnyValue", rest)) => (rest, false),
                Some(_) => return Err(invalid()),
                None => (name.as_str(), false),
            };
            let (rest, if_exists) = match rest.strip_suffix("IfExists") {
                Some(rest) => (rest, true),
                None => (rest, false),
            };
            let operator = Operator::named(rest).ok_or_else(invalid)?;
            for (key, values) in keys {
                let mut values = texts(values).ok_or_else(invalid)?;
                if !has_variables {
                    values.iter_mut().for_each(disarm);
                }
                values.iter().try_for_each(|text| check(text))?;
                let spelt = key;
                let key = spelt.to_ascii_lowercase();
                if !is_known(&key) {
                    return Err(format!("Policy has an invalid condition key: {spelt}"));
                }
                // As the request's is, whose spelling doesn't count.
                if key == "s3:x-amz-copy-source" {
                    let bare = |value: &mut String| {
                        if value.starts_with('/') {
                            value.remove(0);
                        }
                    };
                    values.iter_mut().for_each(bare);
                }
                if let Operator::Address { .. } = operator
                    && values.iter().any(|value| Network::parse(value).is_none())
                {
                    return Err("Invalid IP address in Conditions".into());
                }
                found.push(Self {
                    operator,
                    if_exists,
                    all,
                    key,
                    values,
                });
            }
        }
        Ok(found)
    }

    pub fn holds(&self, context: &BTreeMap<String, Vec<String>>) -> bool {
        let found = context.get(&self.key);
        if self.operator == Operator::Null {
            let wants_absent = self.values.iter().any(|value| value == "true");
            return found.is_none() == wants_absent;
        }
        let Some(found) = found else {
            return self.if_exists || self.all || self.operator.is_negative();
        };
        match self.all || self.operator.is_negative() {
            true => found.iter().all(|value| self.fits(value, context)),
            false => found.iter().any(|value| self.fits(value, context)),
        }
    }

    /// In lower case.
    pub fn key(&self) -> &str {
        &self.key
    }

    fn fits(&self, found: &str, context: &BTreeMap<String, Vec<String>>) -> bool {
        let mut values = self.values.iter();
        match self.operator {
            Operator::Text {
                like,
                any_case,
                not,
            } => {
                let is = |value: &str| match any_case {
                    true => value.eq_ignore_ascii_case(found),
                    false => value == found,
                };
                let same = |value: &String| match like {
                    true => fits(value, context, found),
                    false => filled(value, context).is_some_and(|value| is(&value)),
                };
                values.any(same) != not
            }
            Operator::Number(order) => {
                let number = |text: &str| text.parse::<f64>().ok();
                order.judge(values, |value| number(found)?.partial_cmp(&number(value)?))
            }
            Operator::Date(order) => {
                order.judge(values, |value| Some(seconds(found)?.cmp(&seconds(value)?)))
            }
            Operator::Bool => values.any(|value| value.eq_ignore_ascii_case(found)),
            Operator::Address { not } => {
                let address = found.parse::<IpAddr>().ok();
                let within = |value: &String| {
                    address
                        .zip(Network::parse(value))
                        .is_some_and(|(address, net)| net.has(address))
                };
                values.any(within) != not
            }
            Operator::Null => false,
        }
    }

    /// Whether it leaves only some of those that "everybody" are.
    pub fn narrows(&self) -> bool {
        let keys = [
            "aws:sourceip",
            "aws:principalaccount",
            "aws:principalarn",
            "aws:principalorgid",
            "aws:sourceaccount",
            "aws:sourcearn",
            "aws:sourcevpc",
            "aws:sourcevpce",
        ];
        let few = |value: &String| match self.operator {
            Operator::Text { not: false, .. } => {
                !value.contains(['*', '?']) && !value.contains("${")
            }
            // AWS's own limits of what counts as a range and not as the world.
            Operator::Address { not: false } => Network::parse(value)
                .is_some_and(|network| network.bits >= if network.v4 { 8 } else { 32 }),
            _ => false,
        };
        keys.contains(&self.key.as_str())
            && !self.if_exists
            && !self.all
            && self.values.iter().all(few)
    }
}

/// Keys that a request has here, and those that none has, as none of AWS's own with a root's keys from
/// outside of AWS's networks has them. All in lower case. Others would never hold, or always.
pub fn is_known(key: &str) -> bool {
    const ABSENT: &[&str] = &[
        "aws:calledvia",
        "aws:calledviafirst",
        "aws:calledvialast",
        "aws:ec2instancesourceprivateipv4",
        "aws:ec2instancesourcevpc",
        "aws:federatedprovider",
        "aws:multifactorauthage",
        "aws:multifactorauthpresent",
        "aws:principalisawsservice",
        "aws:principalorgid",
        "aws:principalorgpaths",
        "aws:principalservicename",
        "aws:principalservicenameslist",
        "aws:resourceorgid",
        "aws:resourceorgpaths",
        "aws:sourceaccount",
        "aws:sourcearn",
        "aws:sourceidentity",
        "aws:sourceorgid",
        "aws:sourceorgpaths",
        "aws:sourcevpc",
        "aws:sourcevpcarn",
        "aws:sourcevpce",
        "aws:tagkeys",
        "aws:tokenissuetime",
        "aws:username",
        "s3:x-amz-object-ownership",
        "aws:viaawsservice",
        "aws:vpceaccount",
        "aws:vpceorgid",
        "aws:vpcsourceip",
        "s3:accesspointnetworkorigin",
        "s3:dataaccesspointaccount",
        "s3:dataaccesspointarn",
    ];
    const KNOWN: &[&str] = &[
        "aws:currenttime",
        "aws:epochtime",
        "aws:principalaccount",
        "aws:principalarn",
        "aws:principaltype",
        "aws:referer",
        "aws:requestedregion",
        "aws:resourceaccount",
        "aws:securetransport",
        "aws:sourceip",
        "aws:useragent",
        "aws:userid",
        "s3:authtype",
        "s3:delimiter",
        "s3:if-match",
        "s3:if-none-match",
        "s3:locationconstraint",
        "s3:max-keys",
        "s3:object-lock-legal-hold",
        "s3:object-lock-mode",
        "s3:object-lock-retain-until-date",
        "s3:objectcreationoperation",
        "s3:prefix",
        "s3:resourceaccount",
        "s3:signatureage",
        "s3:signatureversion",
        "s3:tlsversion",
        "s3:versionid",
        "s3:x-amz-acl",
        "s3:x-amz-grant-full-control",
        "s3:x-amz-grant-read",
        "s3:x-amz-grant-read-acp",
        "s3:x-amz-grant-write",
        "s3:x-amz-grant-write-acp",
        "s3:x-amz-content-sha256",
        "s3:x-amz-copy-source",
        "s3:x-amz-metadata-directive",
        "s3:x-amz-server-side-encryption",
        "s3:x-amz-server-side-encryption-aws-kms-key-id",
        "s3:x-amz-server-side-encryption-customer-algorithm",
        "s3:x-amz-storage-class",
        "s3:x-amz-website-redirect-location",
    ];
    KNOWN.contains(&key)
        || ABSENT.contains(&key)
        || key.starts_with(EXISTING_TAG)
        || key.starts_with(ASKED_TAG)
        || key == "s3:requestobjecttagkeys"
        // Accounts have no tags, and buckets' don't count here.
        || ["aws:principaltag/", "aws:requesttag/", "aws:resourcetag/"]
            .iter()
            .any(|tags| key.starts_with(tags))
}

impl Operator {
    fn named(name: &str) -> Option<Self> {
        let text = |like, any_case, not| {
            Some(Operator::Text {
                like,
                any_case,
                not,
            })
        };
        match name {
            "StringEquals" => text(false, false, false),
            "StringNotEquals" => text(false, false, true),
            "StringEqualsIgnoreCase" => text(false, true, false),
            "StringNotEqualsIgnoreCase" => text(false, true, true),
            "StringLike" | "ArnLike" | "ArnEquals" => text(true, false, false),
            "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => text(true, false, true),
            "Bool" => Some(Operator::Bool),
            "IpAddress" => Some(Operator::Address { not: false }),
            "NotIpAddress" => Some(Operator::Address { not: true }),
            "Null" => Some(Operator::Null),
            _ => {
                let (kind, order) =
                    name.split_at_checked(name.find(char::is_lowercase).and_then(|_| {
                        ["Numeric", "Date"]
                            .iter()
                            .find(|kind| name.starts_with(**kind))
                            .map(|kind| kind.len())
                    })?)?;
                let order = Order::named(order)?;
                Some(if kind == "Date" {
                    Operator::Date(order)
                } else {
                    Operator::Number(order)
                })
            }
        }
    }

    fn is_negative(self) -> bool {
        matches!(
            self,
            Operator::Text { not: true, .. }
                | Operator::Address { not: true }
                | Operator::Number(Order::NotEqual)
                | Operator::Date(Order::NotEqual)
        )
    }
}

impl Order {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "Equals" => Order::Equal,
            "NotEquals" => Order::NotEqual,
            "LessThan" => Order::Less,
            "LessThanEquals" => Order::LessOrEqual,
            "GreaterThan" => Order::Greater,
            "GreaterThanEquals" => Order::GreaterOrEqual,
            _ => return None,
        })
    }

    /// Whether what was found, compared with any of the values, is in this order.
    fn judge<'a>(
        self,
        mut values: impl Iterator<Item = &'a String>,
        compare: impl Fn(&str) -> Option<std::cmp::Ordering>,
    ) -> bool {
        if self == Order::NotEqual {
            return values.all(|value| compare(value).is_none_or(|order| order.is_ne()));
        }
        values.any(|value| {
            compare(value).is_some_and(|order| match self {
                Order::Equal => order.is_eq(),
                Order::NotEqual => order.is_ne(),
                Order::Less => order.is_lt(),
                Order::LessOrEqual => order.is_le(),
                Order::Greater => order.is_gt(),
                Order::GreaterOrEqual => order.is_ge(),
            })
        })
    }
}

/// A date of ISO 8601, or seconds since 1970.
fn seconds(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let parse =
        |text: &str| s3s::dto::Timestamp::parse(s3s::dto::TimestampFormat::DateTime, text).ok();
    let whole = parse(text).or_else(|| parse(&format!("{text}T00:00:00Z")))?;
    Some(crate::describe::millis(&whole) / 1000)
}

/// An address, or a range of them.
struct Network {
    base: u128,
    bits: u32,
    v4: bool,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (base, width) = number(address);
        let bits = bits.unwrap_or(width);
        (bits <= width).then(|| Self {
            base,
            bits,
            v4: address.is_ipv4(),
        })
    }

    fn has(&self, address: IpAddr) -> bool {
        let (value, width) = number(address);
        let shift = width - self.bits.min(width);
        address.is_ipv4() == self.v4
            && value.checked_shr(shift).unwrap_or(0) == self.base.checked_shr(shift).unwrap_or(0)
    }
}

fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}
