//! The generic reader: parameters become a [`Struct`] of an operation's input.
//!
//! A parameter's name is a path through the input's shape:
//! `Filter.1.Value.2` in EC2, `Tags.member.1.Key` in the query protocol. The
//! reader grows a tree along the paths and then checks what is missing, so its
//! memory is bounded by the request whatever the list positions in it say.
//!
//! Lists may count from 0 or from 1; gaps are closed, because clients that drop
//! an empty item leave one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::ApiError;
use crate::shape::{Kind, Member, Operation, Protocol, Shape};
use crate::time;
use crate::value::{Str, Struct, Value};

/// The highest position that a list member may have.
const MAX_POSITION: u32 = 99_999;

/// Shapes of other services can contain themselves; no request needs more.
const MAX_DEPTH: usize = 24;

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
        let parameter = Parameter {
            protocol,
            name,
            value,
        };
        let known = root.insert(&parameter, input, name, 0)?;
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

/// A value that is still growing.
enum Node {
    Scalar(Option<Value>),
    Struct(Vec<(u16, Node)>),
    /// By position in the request.
    List(BTreeMap<u32, Node>),
    /// By position in the request: the key and the value.
    Map(BTreeMap<u32, (Node, Node)>),
}

impl Node {
    fn empty(shape: &Shape) -> Node {
        match shape.kind {
            Kind::Structure(_) => Node::Struct(Vec::new()),
            Kind::List { .. } => Node::List(BTreeMap::new()),
            Kind::Map { .. } => Node::Map(BTreeMap::new()),
            _ => Node::Scalar(None),
        }
    }

    /// Puts a parameter's value at `path`; false when the shape has no such path.
    fn insert(
        &mut self,
        parameter: &Parameter<'_>,
        shape: &'static Shape,
        path: &str,
        depth: usize,
    ) -> Result<bool, ApiError> {
        if depth > MAX_DEPTH {
            return Ok(false);
        }
        match (self, &shape.kind) {
            (Node::Struct(fields), Kind::Structure(members)) => {
                let (name, rest) = split(path);
                let Some(index) = members
                    .iter()
                    .position(|member| wire_name(shape, member, parameter.protocol) == name)
                else {
                    return Ok(false);
                };
                let member_shape = shape.at(members[index].shape);
                let child = fields
                    .iter()
                    .position(|(present, _)| usize::from(*present) == index);
                let child = child.unwrap_or_else(|| {
                    fields.push((index as u16, Node::empty(member_shape)));
                    fields.len() - 1
                });
                fields[child]
                    .1
                    .insert(parameter, member_shape, rest, depth + 1)
            }
            (
                Node::List(items),
                Kind::List {
                    item,
                    item_name,
                    flattened,
                    ..
                },
            ) => {
                let path = match parameter.protocol {
                    // The query protocol writes an empty list as an empty value.
                    Protocol::Query if path.is_empty() && parameter.value.is_empty() => {
                        return Ok(true);
                    }
                    Protocol::Query if !flattened => match split(path) {
                        (name, rest) if name == *item_name => rest,
                        _ => return Ok(false),
                    },
                    Protocol::Query | Protocol::Ec2 => path,
                };
                let Some((position, rest)) = position(parameter, path)? else {
                    return Ok(false);
                };
                let item = shape.at(*item);
                let child = items.entry(position).or_insert_with(|| Node::empty(item));
                child.insert(parameter, item, rest, depth + 1)
            }
            (
                Node::Map(entries),
                Kind::Map {
                    key,
                    value,
                    key_name,
                    value_name,
                    flattened,
                },
            ) => {
                let path = match split(path) {
                    ("entry", rest) if !flattened => rest,
                    _ if *flattened => path,
                    _ => return Ok(false),
                };
                let Some((position, rest)) = position(parameter, path)? else {
                    return Ok(false);
                };
                let (name, rest) = split(rest);
                let (key, value) = (shape.at(*key), shape.at(*value));
                let entry = entries
                    .entry(position)
                    .or_insert_with(|| (Node::empty(key), Node::empty(value)));
                if name == *key_name {
                    entry.0.insert(parameter, key, rest, depth + 1)
                } else if name == *value_name {
                    entry.1.insert(parameter, value, rest, depth + 1)
                } else {
                    Ok(false)
                }
            }
            (Node::Scalar(_), _) if !path.is_empty() => Ok(false),
            (Node::Scalar(Some(_)), _) => Err(parameter.repeated()),
            (Node::Scalar(value), _) => {
                *value = Some(parameter.scalar(shape)?);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Turns the grown tree into a value, and checks what its shape demands of it.
    fn finish(self, shape: &'static Shape) -> Result<Value, Unmet> {
        match (self, &shape.kind) {
            (Node::Struct(fields), Kind::Structure(members)) => {
                let present = |index: usize| {
                    fields
                        .iter()
                        .any(|(present, _)| usize::from(*present) == index)
                };
                for (index, member) in members.iter().enumerate() {
                    if member.required && !present(index) {
                        return Err(Unmet {
                            path: member.query.to_owned(),
                            demand: Demand::Present,
                        });
                    }
                }
                let mut finished = Vec::with_capacity(fields.len());
                for (index, node) in fields {
                    let member = &members[usize::from(index)];
                    let value = node
                        .finish(shape.at(member.shape))
                        .map_err(|unmet| unmet.below(member.query))?;
                    finished.push((index, value));
                }
                Ok(Value::Struct(Struct::from_fields(shape, finished)))
            }
            (Node::List(items), Kind::List { item, min, max, .. }) => {
                let length = u32::try_from(items.len()).unwrap_or(u32::MAX);
                if length < *min || length > *max {
                    return Err(Unmet {
                        path: String::new(),
                        demand: Demand::Length {
                            length,
                            min: *min,
                            max: *max,
                        },
                    });
                }
                let mut finished = Vec::with_capacity(items.len());
                for (position, node) in items {
                    finished.push(
                        node.finish(shape.at(*item))
                            .map_err(|unmet| unmet.below(&position.to_string()))?,
                    );
                }
                Ok(Value::List(finished))
            }
            (Node::Map(entries), Kind::Map { key, value, .. }) => {
                let mut finished = Vec::with_capacity(entries.len());
                for (position, entry) in entries {
                    let missing = |_| Unmet {
                        path: position.to_string(),
                        demand: Demand::Present,
                    };
                    if let Value::String(name) = entry.0.finish(shape.at(*key)).map_err(missing)? {
                        finished.push((name, entry.1.finish(shape.at(*value)).map_err(missing)?));
                    }
                }
                Ok(Value::Map(finished))
            }
            (Node::Scalar(Some(value)), _) => Ok(value),
            _ => Err(Unmet {
                path: String::new(),
                demand: Demand::Present,
            }),
        }
    }
}

/// The name of a member in parameters. A flattened list goes by its items' name.
fn wire_name(parent: &Shape, member: &Member, protocol: Protocol) -> &'static str {
    match parent.at(member.shape).kind {
        Kind::List {
            item_name,
            flattened: true,
            ..
        } if protocol == Protocol::Query && item_name != "member" => item_name,
        _ => member.query,
    }
}

/// The first step of a path and the rest.
fn split(path: &str) -> (&str, &str) {
    path.split_once('.').unwrap_or((path, ""))
}

/// The position that a path starts with, and the rest; `None` if it starts with none.
fn position<'p>(
    parameter: &Parameter<'_>,
    path: &'p str,
) -> Result<Option<(u32, &'p str)>, ApiError> {
    let (digits, rest) = split(path);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match digits.parse() {
        Ok(position) if position <= MAX_POSITION => Ok(Some((position, rest))),
        _ => Err(parameter.invalid("The list position is too high.")),
    }
}

/// What a shape demands and a request lacks.
struct Unmet {
    /// From the structure or list where it was found.
    path: String,
    demand: Demand,
}

enum Demand {
    Present,
    Length { length: u32, min: u32, max: u32 },
}

impl Unmet {
    fn below(mut self, step: &str) -> Unmet {
        self.path = if self.path.is_empty() {
            step.to_owned()
        } else {
            format!("{step}.{}", self.path)
        };
        self
    }

    fn into_error(self, protocol: Protocol) -> ApiError {
        let path = self.path;
        match (self.demand, protocol) {
            (Demand::Present, Protocol::Ec2) => ApiError::missing_parameter(path),
            (Demand::Present, Protocol::Query) => validation(
                &format!("Value null at '{}'", camel(&path)),
                "Member must not be null",
            ),
            (Demand::Length { length, min, max }, Protocol::Ec2) => {
                let message = if length < min {
                    format!("The parameter {path} must have at least {min} items.")
                } else {
                    format!("The parameter {path} has {length} items; the most is {max}.")
                };
                ApiError::invalid_parameter_value(message)
            }
            (Demand::Length { length, min, max }, Protocol::Query) => {
                let (relation, bound) = if length < min {
                    ("greater", min)
                } else {
                    ("less", max)
                };
                validation(
                    &format!("Value at '{}'", camel(&path)),
                    &format!("Member must have length {relation} than or equal to {bound}"),
                )
            }
        }
    }
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
