//! The client's side of the same tables: requests as forms, answers from XML.
//! The command line speaks EC2 with it.

use quick_xml::events::Event;
use quick_xml::reader::Reader;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::decode::decode_base64;
use crate::error::ApiError;
use crate::form::percent_encode;
use crate::shape::{Kind, Operation, Protocol, Shape};
use crate::time;
use crate::value::{Str, Struct, Value};

/// Answers nest no deeper than this.
const MAX_DEPTH: usize = 40;

/// The body of a request, `application/x-www-form-urlencoded`.
pub fn encode(operation: &Operation, request: &Struct) -> String {
    let mut form = Form {
        protocol: operation.service.protocol,
        text: String::with_capacity(256),
    };
    form.pair("Action", operation.name);
    form.pair("Version", operation.service.version);
    form.members("", request);
    form.text
}

/// A form while it is written.
struct Form {
    protocol: Protocol,
    text: String,
}

impl Form {
    fn pair(&mut self, path: &str, value: &str) {
        if !self.text.is_empty() {
            self.text.push('&');
        }
        percent_encode(&mut self.text, path.as_bytes(), b"");
        self.text.push('=');
        percent_encode(&mut self.text, value.as_bytes(), b"");
    }

    fn members(&mut self, path: &str, structure: &Struct) {
        for (member, value) in structure.iter() {
            let dot = if path.is_empty() { "" } else { "." };
            let shape = structure.shape().at(member.shape);
            self.value(&format!("{path}{dot}{}", member.query), shape, value);
        }
    }

    fn value(&mut self, path: &str, shape: &Shape, value: &Value) {
        match (&shape.kind, value.resolved()) {
            (Kind::Structure(_), Value::Struct(structure)) => self.members(path, structure),
            (
                Kind::List {
                    item,
                    item_name,
                    flattened,
                    ..
                },
                Value::List(items),
            ) => {
                let path = match self.protocol {
                    Protocol::Query if items.is_empty() => return self.pair(path, ""),
                    Protocol::Query if !flattened => format!("{path}.{item_name}"),
                    Protocol::Query | Protocol::Ec2 => path.to_owned(),
                };
                for (place, value) in items.iter().enumerate() {
                    self.value(&format!("{path}.{}", place + 1), shape.at(*item), value);
                }
            }
            (
                Kind::Map {
                    value: item,
                    key_name,
                    value_name,
                    flattened,
                    ..
                },
                Value::Map(entries),
            ) => {
                let path = if *flattened {
                    path.to_owned()
                } else {
                    format!("{path}.entry")
                };
                for (place, (key, value)) in entries.iter().enumerate() {
                    self.pair(&format!("{path}.{}.{key_name}", place + 1), key);
                    self.value(
                        &format!("{path}.{}.{value_name}", place + 1),
                        shape.at(*item),
                        value,
                    );
                }
            }
            (_, Value::String(text)) => self.pair(path, text),
            (_, Value::Integer(number)) => self.pair(path, &number.to_string()),
            (_, Value::Double(number)) => self.pair(path, &number.to_string()),
            (_, Value::Boolean(value)) => self.pair(path, if *value { "true" } else { "false" }),
            (_, Value::Timestamp(ms)) => self.pair(path, &time::format_ms(*ms)),
            (_, Value::Blob(bytes)) => self.pair(path, &STANDARD.encode(bytes)),
            (_, value) => debug_assert!(false, "{value:?} is no {}", shape.name),
        }
    }
}

/// An answer that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the answer can't be read: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

/// Reads an answer; members that the table doesn't know are skipped.
///
/// # Errors
/// [`Unreadable`] for what isn't this operation's answer.
pub fn parse_answer(operation: &Operation, xml: &[u8]) -> Result<Option<Struct>, Unreadable> {
    let root = element(xml)?;
    if root.name.strip_suffix("Response") != Some(operation.name) {
        return Err(Unreadable(format!(
            "<{}> doesn't answer {}",
            root.name, operation.name
        )));
    }
    let Some(shape) = operation.output() else {
        return Ok(None);
    };
    let result = match operation.result_wrapper {
        None => &root,
        Some(wrapper) => match root.children.iter().find(|child| child.name == wrapper) {
            Some(result) => result,
            None => return Ok(Some(Struct::new(shape))),
        },
    };
    structure(shape, result).map(Some)
}

/// Reads the error in an answer with this HTTP status, and the request's id.
///
/// # Errors
/// [`Unreadable`] when the answer has no error in it.
pub fn parse_error(xml: &[u8], status: u16) -> Result<(ApiError, String), Unreadable> {
    let root = element(xml)?;
    let error = root
        .find("Error")
        .ok_or_else(|| Unreadable(format!("<{}> has no error", root.name)))?;
    let text = |name: &str| error.find(name).map(|found| found.text.clone());
    let code = text("Code").ok_or_else(|| Unreadable("an error without a code".to_owned()))?;
    let request_id = root.find("RequestID").or_else(|| root.find("RequestId"));
    let error = ApiError {
        code: code.into(),
        message: text("Message").unwrap_or_default(),
        status,
    };
    Ok((
        error,
        request_id.map_or_else(String::new, |found| found.text.clone()),
    ))
}

/// An element of the answer.
#[derive(Default)]
struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The first element of this name in the tree.
    fn find(&self, name: &str) -> Option<&Element> {
        self.children.iter().find_map(|child| {
            if child.name == name {
                Some(child)
            } else {
                child.find(name)
            }
        })
    }
}

/// Parses the whole document into its root element.
fn element(xml: &[u8]) -> Result<Element, Unreadable> {
    let unreadable = |error: &dyn std::fmt::Display| Unreadable(error.to_string());
    let mut reader = Reader::from_reader(xml);
    // The last is the innermost that is open; the first holds the document.
    let mut open = vec![Element::default()];
    loop {
        let depth = open.len();
        let innermost = open.last_mut().ok_or_else(|| unreadable(&"unbalanced"))?;
        match reader.read_event().map_err(|error| unreadable(&error))? {
            Event::Start(tag) if depth <= MAX_DEPTH => {
                let name = String::from_utf8_lossy(tag.local_name().as_ref()).into_owned();
                open.push(Element {
                    name,
                    ..Element::default()
                });
            }
            Event::Start(_) => return Err(unreadable(&"nested too deeply")),
            Event::Empty(tag) => {
                let name = String::from_utf8_lossy(tag.local_name().as_ref()).into_owned();
                innermost.children.push(Element {
                    name,
                    ..Element::default()
                });
            }
            Event::Text(text) => innermost
                .text
                .push_str(&text.decode().map_err(|error| unreadable(&error))?),
            Event::CData(text) => innermost
                .text
                .push_str(&text.decode().map_err(|error| unreadable(&error))?),
            Event::GeneralRef(reference) => {
                let character = reference
                    .resolve_char_ref()
                    .map_err(|error| unreadable(&error))?;
                let name = reference.decode().map_err(|error| unreadable(&error))?;
                match (character, quick_xml::escape::resolve_xml_entity(&name)) {
                    (Some(character), _) => innermost.text.push(character),
                    (None, Some(text)) => innermost.text.push_str(text),
                    (None, None) => return Err(unreadable(&"an unknown entity")),
                }
            }
            Event::End(_) => {
                let closed = open.pop().unwrap_or_default();
                open.last_mut()
                    .ok_or_else(|| unreadable(&"unbalanced"))?
                    .children
                    .push(closed);
            }
            Event::Eof => break,
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
    let mut document = open.pop().unwrap_or_default();
    match (open.is_empty(), document.children.pop()) {
        (true, Some(root)) => Ok(root),
        _ => Err(unreadable(&"it ends early")),
    }
}

fn structure(shape: &'static Shape, element: &Element) -> Result<Struct, Unreadable> {
    let mut structure = Struct::new(shape);
    for (index, member) in shape.members().iter().enumerate() {
        let member_shape = shape.at(member.shape);
        let value = match member_shape.kind {
            Kind::List {
                item,
                item_name,
                flattened: true,
                ..
            } => {
                let name = if item_name == "member" {
                    member.xml
                } else {
                    item_name
                };
                let items = element.children.iter().filter(|child| child.name == name);
                let items = items
                    .map(|child| value(shape.at(item), child))
                    .collect::<Result<Vec<Value>, _>>()?;
                (!items.is_empty()).then_some(Value::List(items))
            }
            _ => {
                let child = element
                    .children
                    .iter()
                    .find(|child| child.name == member.xml);
                child.map(|child| value(member_shape, child)).transpose()?
            }
        };
        structure.set_at(index as u16, value);
    }
    Ok(structure)
}

fn value(shape: &'static Shape, element: &Element) -> Result<Value, Unreadable> {
    let text = element.text.as_str();
    let wrong = || Unreadable(format!("<{}>{text} is no {}", element.name, shape.name));
    Ok(match shape.kind {
        Kind::Structure(_) => Value::Struct(structure(shape, element)?),
        Kind::List { item, .. } => {
            let items = element
                .children
                .iter()
                .map(|child| value(shape.at(item), child));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Kind::Map {
            value: item,
            key_name,
            value_name,
            ..
        } => {
            let mut entries = Vec::new();
            for entry in &element.children {
                let (Some(key), Some(found)) = (entry.find(key_name), entry.find(value_name))
                else {
                    return Err(wrong());
                };
                entries.push((Str::Owned(key.text.clone()), value(shape.at(item), found)?));
            }
            Value::Map(entries)
        }
        Kind::String { .. } | Kind::Enum(_) => Value::String(Str::Owned(text.to_owned())),
        Kind::Integer { .. } => Value::Integer(text.trim().parse().map_err(|_| wrong())?),
        Kind::Double { .. } => Value::Double(text.trim().parse().map_err(|_| wrong())?),
        Kind::Boolean => Value::Boolean(text.trim().parse().map_err(|_| wrong())?),
        Kind::Timestamp => Value::Timestamp(time::parse_iso8601(text.trim()).ok_or_else(wrong)?),
        Kind::Blob { .. } => Value::Blob(decode_base64(text).ok_or_else(wrong)?),
    })
}
