//! The generic writer: an answer as XML, whole or piece by piece.
//!
//! [`Response`] opens the envelope when it is made and closes it in
//! [`Response::finish`]; in between members are written whole, or a list item
//! by item, and [`Response::take`] hands over what has been written so far. So
//! ten thousand instances never need one buffer.

use crate::error::ApiError;
use crate::shape::{Kind, Member, Operation, Protocol, Shape};
use crate::value::{IntoMember, Struct, Value};
use crate::xml::{DECLARATION, close, escape, open, push_element, push_members};

/// The content type of every answer in XML.
pub const CONTENT_TYPE: &str = "text/xml;charset=UTF-8";

/// An answer while it is written.
pub struct Response {
    operation: &'static Operation,
    request_id: String,
    out: Vec<u8>,
    list: Option<OpenList>,
    has_members: bool,
}

/// The list that is being written item by item.
struct OpenList {
    /// The element around the items; a flattened list has none.
    element: Option<&'static str>,
    item_name: &'static str,
    item: &'static Shape,
}

/// The whole answer of an operation.
pub fn respond(
    operation: &'static Operation,
    version: &str,
    request_id: &str,
    answer: &Struct,
) -> Vec<u8> {
    let mut response = Response::new(operation, version, request_id);
    response.members(answer);
    response.finish()
}

impl Response {
    /// Opens the envelope. `version` is the client's: EC2 repeats it in the namespace.
    pub fn new(operation: &'static Operation, version: &str, request_id: &str) -> Response {
        let service = operation.service;
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(DECLARATION);
        out.push(b'<');
        out.extend_from_slice(operation.name.as_bytes());
        out.extend_from_slice(b"Response xmlns=\"");
        out.extend_from_slice(service.namespace.as_bytes());
        match service.protocol {
            Protocol::Ec2 => {
                escape(&mut out, version);
                out.extend_from_slice(b"/\"><requestId>");
                escape(&mut out, request_id);
                out.extend_from_slice(b"</requestId>");
            }
            Protocol::Query => {
                out.extend_from_slice(b"\">");
                if let Some(wrapper) = operation.result_wrapper {
                    open(&mut out, wrapper);
                }
            }
        }
        Response {
            operation,
            request_id: request_id.to_owned(),
            out,
            list: None,
            has_members: false,
        }
    }

    /// Writes all members of an answer.
    pub fn members(&mut self, answer: &Struct) {
        debug_assert!(
            answer.is_empty()
                || self
                    .operation
                    .output()
                    .is_some_and(|shape| std::ptr::eq(shape, answer.shape())),
            "{} is not the answer of {}",
            answer.shape().name,
            self.operation.name
        );
        self.has_members |= !answer.is_empty();
        push_members(&mut self.out, answer);
    }

    /// Writes one member by its model name; `None` leaves it absent.
    pub fn member(&mut self, name: &str, value: impl IntoMember) {
        let Some(value) = value.into_member() else {
            return;
        };
        let Some((member, shape)) = self.output_member(name) else {
            return;
        };
        self.has_members = true;
        push_element(&mut self.out, member.xml, shape, &value);
    }

    /// Opens the list member of this model name; its items follow.
    pub fn begin_list(&mut self, name: &str) {
        debug_assert!(self.list.is_none(), "{name} inside another list");
        let Some((member, shape)) = self.output_member(name) else {
            return;
        };
        let Kind::List {
            item,
            item_name,
            flattened,
            ..
        } = shape.kind
        else {
            debug_assert!(false, "{name} of {} is no list", self.operation.name);
            return;
        };
        self.has_members = true;
        if !flattened {
            open(&mut self.out, member.xml);
        }
        let element = (!flattened).then_some(member.xml);
        let item_name = if flattened && item_name == "member" {
            member.xml
        } else {
            item_name
        };
        self.list = Some(OpenList {
            element,
            item_name,
            item: shape.at(item),
        });
    }

    /// Writes the next item of the open list.
    pub fn item(&mut self, item: &Value) {
        match &self.list {
            Some(list) => push_element(&mut self.out, list.item_name, list.item, item),
            None => debug_assert!(false, "an item of {} outside a list", self.operation.name),
        }
    }

    pub fn end_list(&mut self) {
        if let Some(OpenList {
            element: Some(element),
            ..
        }) = self.list.take()
        {
            close(&mut self.out, element);
        }
    }

    /// How much has been written and not yet taken, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.out.len()
    }

    /// Takes what has been written so far.
    pub fn take(&mut self) -> Vec<u8> {
        let capacity = self.out.len();
        std::mem::replace(&mut self.out, Vec::with_capacity(capacity))
    }

    /// Closes the envelope and returns what wasn't taken yet.
    pub fn finish(mut self) -> Vec<u8> {
        self.end_list();
        match self.operation.service.protocol {
            Protocol::Ec2 => {
                // What has nothing to tell says that it was done.
                if self.operation.output().is_none() && !self.has_members {
                    self.out.extend_from_slice(b"<return>true</return>");
                }
            }
            Protocol::Query => {
                if let Some(wrapper) = self.operation.result_wrapper {
                    close(&mut self.out, wrapper);
                }
                self.out.extend_from_slice(b"<ResponseMetadata><RequestId>");
                escape(&mut self.out, &self.request_id);
                self.out
                    .extend_from_slice(b"</RequestId></ResponseMetadata>");
            }
        }
        self.out.extend_from_slice(b"</");
        self.out.extend_from_slice(self.operation.name.as_bytes());
        self.out.extend_from_slice(b"Response>");
        self.out
    }

    fn output_member(&self, name: &str) -> Option<(&'static Member, &'static Shape)> {
        let found = self.operation.output().and_then(|output| {
            let member = &output.members()[usize::from(output.member_index(name)?)];
            Some((member, output.at(member.shape)))
        });
        debug_assert!(
            found.is_some(),
            "the answer of {} has no member {name}",
            self.operation.name
        );
        found
    }
}

/// The version that a request names, if Boira accepts it: for EC2 a date from 2009 on, because its
/// clients name every date that there was; for the other services the version of their model.
///
/// # Errors
/// `NoSuchVersion` of EC2, `InvalidAction` of the others.
pub fn accepted_version<'v>(operation: &Operation, version: &'v str) -> Result<&'v str, ApiError> {
    let service = operation.service;
    match service.protocol {
        Protocol::Ec2 if is_date(version) && version >= "2009-01-01" => Ok(version),
        Protocol::Ec2 => {
            let version: String = version.chars().take(40).collect();
            Err(ApiError::new(
                "NoSuchVersion",
                format!("The requested version {version} is not valid."),
            ))
        }
        Protocol::Query if version == service.version => Ok(version),
        Protocol::Query => Err(ApiError::invalid_action(service, operation.name, version)),
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}
