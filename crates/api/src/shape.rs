//! What a service's model says: its operations and the shapes of what they take
//! and give. The tables in [`crate::shapes`] are made of these types.
//!
//! Inside a table a shape is named by its index and not by a reference, because
//! fifteen thousand references into an array cost the compiler three seconds;
//! [`Shape::at`] follows an index.

use crate::error::ApiError;

/// How a service's requests and answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// EC2's own: flattened lists (`Filter.1.Value.1`), `<item>` in answers.
    Ec2,
    /// AWS's older query protocol (STS, IAM, …): `Names.member.1`, results wrapped.
    Query,
}

/// One AWS service in one version of its API.
#[derive(Debug)]
pub struct Service {
    /// botocore's name of the service: `ec2`, `sts`.
    pub name: &'static str,
    /// The version of the API that the model describes, `2016-11-15`.
    pub version: &'static str,
    pub protocol: Protocol,
    /// The XML namespace of answers; for EC2 without the version that ends it.
    pub namespace: &'static str,
    /// All operations, by name.
    pub operations: &'static [Operation],
    /// All shapes, by name.
    pub shapes: &'static [Shape],
}

/// One operation of a service.
#[derive(Debug)]
pub struct Operation {
    pub name: &'static str,
    pub service: &'static Service,
    pub(crate) input: u16,
    pub(crate) output: Option<u16>,
    /// The element around the members of the answer (`query` only).
    pub result_wrapper: Option<&'static str>,
    /// How its lists are paged, where the model says so.
    pub paging: Option<Paging>,
}

/// The members by which an operation's answers are paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    pub input_token: &'static str,
    pub output_token: &'static str,
    /// The input that bounds a page, usually `MaxResults`.
    pub limit: Option<&'static str>,
}

/// A named type of a service's model.
#[derive(Debug)]
pub struct Shape {
    pub name: &'static str,
    /// Whose table it is in.
    pub service: &'static Service,
    pub kind: Kind,
}

/// What a shape is made of. Bounds are inclusive.
#[derive(Debug)]
pub enum Kind {
    /// Members are sorted by their model's name.
    Structure(&'static [Member]),
    List {
        item: u16,
        /// The element's name of one item in XML, and in `query` parameters.
        item_name: &'static str,
        flattened: bool,
        min: u32,
        max: u32,
    },
    Map {
        key: u16,
        value: u16,
        key_name: &'static str,
        value_name: &'static str,
        flattened: bool,
    },
    String {
        /// In characters.
        min: u32,
        max: u32,
        sensitive: bool,
    },
    /// A string out of a closed set; the values are sorted.
    Enum(&'static [&'static str]),
    Integer {
        min: i64,
        max: i64,
    },
    Double {
        min: f64,
        max: f64,
    },
    Boolean,
    Timestamp,
    Blob {
        sensitive: bool,
    },
}

/// A member of a structure.
#[derive(Debug)]
pub struct Member {
    /// The model's name, which SDKs show: `BlockDeviceMappings`.
    pub name: &'static str,
    /// The name in request parameters: `BlockDeviceMapping`.
    pub query: &'static str,
    /// The element's name in answers: `blockDeviceMapping`.
    pub xml: &'static str,
    pub shape: u16,
    pub required: bool,
}

impl Service {
    /// The operation of this name.
    ///
    /// # Errors
    /// `InvalidAction` when the service has none of this name.
    pub fn operation(&self, name: &str) -> Result<&'static Operation, ApiError> {
        self.operations
            .binary_search_by(|operation| operation.name.cmp(name))
            .map(|index| &self.operations[index])
            .map_err(|_| ApiError::invalid_action(self, name, self.version))
    }

    /// The shape of this name.
    pub fn shape(&self, name: &str) -> Option<&'static Shape> {
        let index = self
            .shapes
            .binary_search_by(|shape| shape.name.cmp(name))
            .ok()?;
        Some(&self.shapes[index])
    }
}

impl Operation {
    /// What its parameters make.
    pub fn input(&self) -> &'static Shape {
        &self.service.shapes[usize::from(self.input)]
    }

    /// What it answers; some only say that they are done.
    pub fn output(&self) -> Option<&'static Shape> {
        self.output
            .map(|index| &self.service.shapes[usize::from(index)])
    }
}

impl Shape {
    /// The shape at an index of the same table, as members and lists have it.
    pub fn at(&self, index: u16) -> &'static Shape {
        &self.service.shapes[usize::from(index)]
    }

    /// The members of a structure, none for any other kind.
    pub fn members(&self) -> &'static [Member] {
        match self.kind {
            Kind::Structure(members) => members,
            _ => &[],
        }
    }

    /// The index of the member with this model name.
    pub fn member_index(&self, name: &str) -> Option<u16> {
        let found = self
            .members()
            .binary_search_by(|member| member.name.cmp(name));
        found.ok().map(|index| index as u16)
    }

    /// Whether it has no parts.
    pub fn is_scalar(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Structure(_) | Kind::List { .. } | Kind::Map { .. }
        )
    }

    /// Whether values of it must not be repeated in messages.
    pub fn is_sensitive(&self) -> bool {
        matches!(
            self.kind,
            Kind::String {
                sensitive: true,
                ..
            } | Kind::Blob { sensitive: true }
        )
    }
}

// What the generated tables are written with, short because it is written
// fifteen thousand times.

pub(crate) const NONE: u32 = u32::MAX;

pub(crate) const fn m(
    name: &'static str,
    query: &'static str,
    xml: &'static str,
    shape: u16,
) -> Member {
    Member {
        name,
        query,
        xml,
        shape,
        required: false,
    }
}

pub(crate) const fn r(
    name: &'static str,
    query: &'static str,
    xml: &'static str,
    shape: u16,
) -> Member {
    Member {
        name,
        query,
        xml,
        shape,
        required: true,
    }
}

pub(crate) const fn s(service: &'static Service, name: &'static str, kind: Kind) -> Shape {
    Shape {
        name,
        service,
        kind,
    }
}
