//! The tree that grows along the parameters' paths, and what it has to fulfil
//! in the end.

use std::collections::BTreeMap;

use super::{Parameter, camel, validation};
use crate::error::ApiError;
use crate::shape::{Kind, Member, Protocol, Shape};
use crate::value::{Struct, Value};

/// The highest position that a list member may have.
const MAX_POSITION: u32 = 99_999;

/// Shapes of some services contain themselves; no request needs more.
const MAX_DEPTH: usize = 24;

/// A value that is still growing.
pub(super) enum Node {
    Scalar(Option<Value>),
    Struct(Vec<(u16, Node)>),
    /// By position in the request.
    List(BTreeMap<u32, Node>),
    /// By position in the request: the key and the value.
    Map(BTreeMap<u32, (Node, Node)>),
}

impl Node {
    pub(super) fn empty(shape: &Shape) -> Node {
        match shape.kind {
            Kind::Structure(_) => Node::Struct(Vec::new()),
            Kind::List { .. } => Node::List(BTreeMap::new()),
            Kind::Map { .. } => Node::Map(BTreeMap::new()),
            _ => Node::Scalar(None),
        }
    }

    /// Puts a parameter's value at `path`; false when the shape has no such path.
    pub(super) fn insert(
        &mut self,
        parameter: &Parameter<'_>,
        shape: &'static Shape,
        path: &str,
        depth: usize,
    ) -> Result<bool, ApiError> {
        if depth > MAX_DEPTH {
            return Ok(false);
        }
        match self {
            Node::Struct(fields) => insert_member(fields, parameter, shape, path, depth),
            Node::List(items) => insert_item(items, parameter, shape, path, depth),
            Node::Map(entries) => insert_entry(entries, parameter, shape, path, depth),
            Node::Scalar(_) if !path.is_empty() => Ok(false),
            Node::Scalar(Some(_)) => Err(parameter.repeated()),
            Node::Scalar(value) => {
                *value = Some(parameter.scalar(shape)?);
                Ok(true)
            }
        }
    }

    /// Turns the grown tree into a value, and checks what its shape demands of it.
    pub(super) fn finish(self, shape: &'static Shape) -> Result<Value, Unmet> {
        match self {
            Node::Struct(fields) => finish_struct(fields, shape),
            Node::List(items) => finish_list(items, shape),
            Node::Map(entries) => finish_map(entries, shape),
            Node::Scalar(Some(value)) => Ok(value),
            Node::Scalar(None) => Err(Unmet::absent("")),
        }
    }
}

fn insert_member(
    fields: &mut Vec<(u16, Node)>,
    parameter: &Parameter<'_>,
    shape: &'static Shape,
    path: &str,
    depth: usize,
) -> Result<bool, ApiError> {
    let (name, rest) = split(path);
    let mut members = shape.members().iter();
    let Some(index) =
        members.position(|member| wire_name(shape, member, parameter.protocol) == name)
    else {
        return Ok(false);
    };
    let member_shape = shape.at(shape.members()[index].shape);
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

fn insert_item(
    items: &mut BTreeMap<u32, Node>,
    parameter: &Parameter<'_>,
    shape: &'static Shape,
    path: &str,
    depth: usize,
) -> Result<bool, ApiError> {
    let Kind::List {
        item,
        item_name,
        flattened,
        ..
    } = shape.kind
    else {
        return Ok(false);
    };
    let path = match parameter.protocol {
        // The query protocol writes an empty list as an empty value.
        Protocol::Query if path.is_empty() && parameter.value.is_empty() => return Ok(true),
        Protocol::Query if !flattened => match split(path) {
            (name, rest) if name == item_name => rest,
            _ => return Ok(false),
        },
        Protocol::Query | Protocol::Ec2 => path,
    };
    let item = shape.at(item);
    // Who has only one value may leave its number out (libcloud, fog).
    let is_only_one = parameter.protocol == Protocol::Ec2 && path.is_empty() && item.is_scalar();
    let place = match is_only_one {
        true => Some((1, "")),
        false => position(parameter, path)?,
    };
    let Some((position, rest)) = place else {
        return Ok(false);
    };
    let child = items.entry(position).or_insert_with(|| Node::empty(item));
    child.insert(parameter, item, rest, depth + 1)
}

fn insert_entry(
    entries: &mut BTreeMap<u32, (Node, Node)>,
    parameter: &Parameter<'_>,
    shape: &'static Shape,
    path: &str,
    depth: usize,
) -> Result<bool, ApiError> {
    let Kind::Map {
        key,
        value,
        key_name,
        value_name,
        flattened,
    } = shape.kind
    else {
        return Ok(false);
    };
    let path = match split(path) {
        ("entry", rest) if !flattened => rest,
        _ if flattened => path,
        _ => return Ok(false),
    };
    let Some((position, rest)) = position(parameter, path)? else {
        return Ok(false);
    };
    let (name, rest) = split(rest);
    let (key, value) = (shape.at(key), shape.at(value));
    let entry = entries
        .entry(position)
        .or_insert_with(|| (Node::empty(key), Node::empty(value)));
    if name == key_name {
        entry.0.insert(parameter, key, rest, depth + 1)
    } else if name == value_name {
        entry.1.insert(parameter, value, rest, depth + 1)
    } else {
        Ok(false)
    }
}

fn finish_struct(fields: Vec<(u16, Node)>, shape: &'static Shape) -> Result<Value, Unmet> {
    let members = shape.members();
    let present = |index: usize| {
        fields
            .iter()
            .any(|(present, _)| usize::from(*present) == index)
    };
    for (index, member) in members.iter().enumerate() {
        if member.required && !present(index) {
            return Err(Unmet::absent_member(member));
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

fn finish_list(items: BTreeMap<u32, Node>, shape: &'static Shape) -> Result<Value, Unmet> {
    let Kind::List { item, min, max, .. } = shape.kind else {
        return Err(Unmet::absent(""));
    };
    let length = u32::try_from(items.len()).unwrap_or(u32::MAX);
    if length < min || length > max {
        return Err(Unmet {
            path: String::new(),
            demand: Demand::Length { length, min, max },
        });
    }
    let mut finished = Vec::with_capacity(items.len());
    for (position, node) in items {
        let value = node
            .finish(shape.at(item))
            .map_err(|unmet| unmet.below(&position.to_string()))?;
        finished.push(value);
    }
    Ok(Value::List(finished))
}

fn finish_map(entries: BTreeMap<u32, (Node, Node)>, shape: &'static Shape) -> Result<Value, Unmet> {
    let Kind::Map { key, value, .. } = shape.kind else {
        return Err(Unmet::absent(""));
    };
    let mut finished = Vec::with_capacity(entries.len());
    for (position, entry) in entries {
        let below = |unmet: Unmet| unmet.below(&position.to_string());
        if let Value::String(name) = entry.0.finish(shape.at(key)).map_err(below)? {
            finished.push((name, entry.1.finish(shape.at(value)).map_err(below)?));
        }
    }
    Ok(Value::Map(finished))
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
pub(super) struct Unmet {
    /// From the structure or list where it was found.
    path: String,
    demand: Demand,
}

enum Demand {
    Present,
    Instances,
    Length { length: u32, min: u32, max: u32 },
}

impl Unmet {
    fn absent(path: &str) -> Unmet {
        Unmet {
            path: path.to_owned(),
            demand: Demand::Present,
        }
    }

    /// A list of instances is the one thing whose absence EC2 words otherwise; scripts send empty ones
    /// every day.
    fn absent_member(member: &Member) -> Unmet {
        Unmet {
            path: member.query.to_owned(),
            demand: match member.name {
                "InstanceIds" => Demand::Instances,
                _ => Demand::Present,
            },
        }
    }

    fn below(mut self, step: &str) -> Unmet {
        self.path = if self.path.is_empty() {
            step.to_owned()
        } else {
            format!("{step}.{}", self.path)
        };
        self
    }

    pub(super) fn into_error(self, protocol: Protocol) -> ApiError {
        let path = self.path;
        match (self.demand, protocol) {
            (Demand::Instances, _) => ApiError::invalid_combination("No instances specified"),
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
