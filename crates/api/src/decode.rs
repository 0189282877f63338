//! The generic reader: parameters become a [`Struct`] of an operation's input.
//!
//! A parameter's name is a path through the input's shape:
//! `Filter.1.Value.2` in EC2, `Tags.member.1.Key` in the query protocol. The
//! reader grows a tree along the paths and then checks what is missing, so its
//! memory is bounded by the request whatever the list positions in it say.
//!
//! Lists may count from 0 or from 1; gaps are closed, because clients that drop
//! an empty item leave one.

mod tree;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::ApiError;
use crate::shape::{Kind, Operation, Protocol, Shape};
use crate::time;
use crate::value::{Str, Struct, Value};
use tree::Node;

/// Reads and validates the parameters of a request.
///
/// Parameters of the protocol and of the signature (`Action`, `Version`,
/// `AWSAccessKeyId`, `X-Amz-Date`, …) are skipped, and also `DryRun` is an ordinary
/// member. Enumerations are enforced, except instance types.
///
/// # Errors
/// For EC2 `MissingParameter`, `UnknownParameter`, `InvalidParameterValue`,
/// `MalformedQueryString` (a parameter given twice) and `InvalidUserData.Malformed`;
/// for the query protocol `ValidationError` and `InvalidQueryParameter`.
pub fn decode(
    operation: &'static Operation,
    parameters: &[(Cow<'_, str>, Cow<'_, str>)],
) -> Result<Struct, ApiError> {
    let protocol = operation.service.protocol;
    let input = operation.input();
    let mut root = Node::empty(input);
    for (name, value) in parameters {
        let name = renamed(operation, name);
        let parameter = Parameter {
            protocol,
            name,
            value,
        };
        let known = !name.ends_with('.') && root.insert(&parameter, input, name, 0)?;
        if !known && !is_common(name) {
            return Err(parameter.unknown());
        }
    }
    match root
        .finish(input)
        .map_err(|unmet| unmet.into_error(protocol))?
    {
        Value::Struct(request) => Ok(request),
        _ => Err(ApiError::malformed_query(
            "The request's input is not a structure.",
        )),
    }
}

/// A parameter as the model names it: boto 2 counts the one instance of GetConsoleOutput, which AWS takes.
fn renamed<'a>(operation: &Operation, name: &'a str) -> &'a str {
    match (operation.name, name) {
        ("GetConsoleOutput", "InstanceId.1") => "InstanceId",
        _ => name,
    }
}

/// Decodes base64 as AWS does: with or without padding, line breaks skipped.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        let text: String = text
            .chars()
            .filter(|character| !character.is_ascii_whitespace())
            .collect();
        return LENIENT.decode(text).ok();
    }
    LENIENT.decode(text).ok()
}

/// The parameters that belong to the protocol and not to an operation.
fn is_common(name: &str) -> bool {
    matches!(
        name,
        "Action"
            | "Version"
            | "AWSAccessKeyId"
            | "Signature"
            | "SignatureMethod"
            | "SignatureVersion"
            | "Timestamp"
            | "Expires"
            | "SecurityToken"
    ) || name
        .get(..6)
        .is_some_and(|start| start.eq_ignore_ascii_case("X-Amz-"))
}

/// One parameter of the request, for the messages about it.
struct Parameter<'a> {
    protocol: Protocol,
    name: &'a str,
    value: &'a str,
}

/// The query services' error: what is wrong, and the constraint that it breaks.
fn validation(subject: &str, constraint: &str) -> ApiError {
    let message = format!(
        "1 validation error detected: {subject} failed to satisfy constraint: {constraint}"
    );
    ApiError::new("ValidationError", message)
}

fn camel(name: &str) -> String {
    let mut characters = name.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

impl Parameter<'_> {
    fn unknown(&self) -> ApiError {
        match self.protocol {
            Protocol::Ec2 => ApiError::unknown_parameter(self.name),
            Protocol::Query => ApiError::new(
                "InvalidQueryParameter",
                ApiError::unknown_parameter(self.name).message,
            ),
        }
    }

    fn repeated(&self) -> ApiError {
        let name: String = self.name.chars().take(200).collect();
        ApiError::malformed_query(format!("The parameter {name} was given more than once."))
    }

    fn invalid(&self, reason: &str) -> ApiError {
        self.refused(self.value, reason)
    }

    fn refused(&self, value: &str, reason: &str) -> ApiError {
        match self.protocol {
            Protocol::Ec2 => ApiError::invalid_value(self.name, value, reason),
            Protocol::Query => {
                let value: String = value.chars().take(200).collect();
                validation(
                    &format!("Value '{value}' at '{}'", camel(self.name)),
                    reason.trim_end_matches('.'),
                )
            }
        }
    }

    /// The value as a scalar of this shape.
    fn scalar(&self, shape: &Shape) -> Result<Value, ApiError> {
        let text = self.value;
        match shape.kind {
            Kind::String {
                min,
                max,
                sensitive,
            } => {
                let shown = if sensitive { "(sensitive)" } else { text };
                if min > 0 || (text.len() as u64) > u64::from(max) {
                    let length = text.chars().count();
                    if length < min as usize {
                        return Err(self.refused(
                            shown,
                            &format!("Member must have length greater than or equal to {min}."),
                        ));
                    }
                    if length > max as usize {
                        return Err(self.refused(
                            shown,
                            &format!("Member must have length less than or equal to {max}."),
                        ));
                    }
                }
                Ok(Value::String(Str::Owned(text.to_owned())))
            }
            Kind::Enum(values) => match values.binary_search(&text) {
                Ok(index) => Ok(Value::String(Str::Static(values[index]))),
                Err(_) if values.len() > 40 => {
                    Err(self.invalid("It is not one of the documented values."))
                }
                Err(_) => Err(self.invalid(&format!(
                    "Member must satisfy enum value set: [{}].",
                    values.join(", ")
                ))),
            },
            Kind::Integer { min, max } => {
                let number: i64 = text
                    .parse()
                    .map_err(|_| self.invalid("Expected an integer."))?;
                self.bounded(number, min, max)?;
                Ok(Value::Integer(number))
            }
            Kind::Double { min, max } => {
                let number: Option<f64> =
                    text.parse().ok().filter(|number: &f64| number.is_finite());
                let number = number.ok_or_else(|| self.invalid("Expected a number."))?;
                self.bounded(number, min, max)?;
                Ok(Value::Double(number))
            }
            Kind::Boolean if text.eq_ignore_ascii_case("true") || text == "1" => {
                Ok(Value::Boolean(true))
            }
            Kind::Boolean if text.eq_ignore_ascii_case("false") || text == "0" => {
                Ok(Value::Boolean(false))
            }
            Kind::Boolean => Err(self.invalid("Expected true or false.")),
            Kind::Timestamp => {
                let time_ms = time::parse_iso8601(text);
                time_ms
                    .map(Value::Timestamp)
                    .ok_or_else(|| self.invalid("Expected a time as ISO 8601 has it."))
            }
            Kind::Blob { .. } => decode_base64(text)
                .map(Value::Blob)
                .ok_or_else(|| self.not_base64()),
            Kind::Structure(_) | Kind::List { .. } | Kind::Map { .. } => Err(self.unknown()),
        }
    }

    fn bounded<N: PartialOrd + std::fmt::Display>(
        &self,
        number: N,
        min: N,
        max: N,
    ) -> Result<(), ApiError> {
        if number < min {
            return Err(self.invalid(&format!(
                "Member must have value greater than or equal to {min}."
            )));
        }
        if number > max {
            return Err(self.invalid(&format!(
                "Member must have value less than or equal to {max}."
            )));
        }
        Ok(())
    }

    /// The value isn't repeated: user data and keys are secrets.
    fn not_base64(&self) -> ApiError {
        if self.protocol == Protocol::Ec2 && self.name.starts_with("UserData") {
            return ApiError::new(
                "InvalidUserData.Malformed",
                "Invalid BASE64 encoding of user data.",
            );
        }
        self.refused("(binary)", "Expected base64.")
    }
}
