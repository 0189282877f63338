//! The value tree that requests become and answers are made of.
//!
//! A [`Struct`] carries its shape and keeps a member as its index in that
//! shape, so that the writer never looks a name up and a field costs two bytes
//! beside its value. Strings that are constants or shared aren't copied, and
//! [`Value::Shared`] and [`Value::Raw`] let a caller keep what it has built or
//! written before.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::shape::{Member, Shape};

/// A value of any kind of shape.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Double(f64),
    String(Str),
    /// Milliseconds since the Unix epoch.
    Timestamp(i64),
    Blob(Vec<u8>),
    List(Vec<Value>),
    Map(Vec<(Str, Value)>),
    Struct(Struct),
    /// A subtree that other answers use too.
    Shared(Arc<Value>),
    /// XML already written by [`crate::xml::encode`] for a value of the same shape.
    Raw(Arc<[u8]>),
}

/// A structure's members, as far as they are present.
#[derive(Clone)]
pub struct Struct {
    shape: &'static Shape,
    /// The member's index in the shape, and its value; in no order.
    fields: Vec<(u16, Value)>,
}

/// A string that is constant, shared or owned.
#[derive(Clone)]
pub enum Str {
    Static(&'static str),
    Shared(Arc<str>),
    Owned(String),
}

impl Struct {
    /// A structure without members.
    pub const fn new(shape: &'static Shape) -> Struct {
        Struct {
            shape,
            fields: Vec::new(),
        }
    }

    /// A structure with room for this many members.
    pub fn with_capacity(shape: &'static Shape, capacity: usize) -> Struct {
        Struct {
            shape,
            fields: Vec::with_capacity(capacity),
        }
    }

    pub fn shape(&self) -> &'static Shape {
        self.shape
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Sets the member at this index of the shape's members; `None` leaves it absent.
    pub fn set_at(&mut self, index: u16, value: impl IntoMember) {
        let Some(value) = value.into_member() else {
            return;
        };
        debug_assert!(
            usize::from(index) < self.shape.members().len(),
            "{} has no member {index}",
            self.shape.name
        );
        match self
            .fields
            .iter_mut()
            .find(|(present, _)| *present == index)
        {
            Some((_, present)) => *present = value,
            None => self.fields.push((index, value)),
        }
    }

    /// Sets the member of this model name; `None` leaves it absent.
    ///
    /// A name that the shape hasn't is a mistake of the program: debug builds
    /// panic, release builds leave the member out.
    pub fn set(&mut self, name: &str, value: impl IntoMember) {
        match self.shape.member_index(name) {
            Some(index) => self.set_at(index, value),
            None => debug_assert!(false, "{} has no member {name}", self.shape.name),
        }
    }

    /// [`Struct::set`] for chains.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl IntoMember) -> Struct {
        self.set(name, value);
        self
    }

    /// The member of this model name (`ImageId`), if it is present.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.at(self.shape.member_index(name)?)
    }

    /// The member at this index of the shape's members, if it is present.
    pub fn at(&self, index: u16) -> Option<&Value> {
        let (_, value) = self.fields.iter().find(|(present, _)| *present == index)?;
        Some(value.resolved())
    }

    /// The members that are present.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Member, &Value)> {
        let members = self.shape.members();
        self.fields
            .iter()
            .map(|(index, value)| (&members[usize::from(*index)], value))
    }

    /// The first present member whose model name isn't among `honoured`.
    ///
    /// For operations that refuse what they don't honour: a parameter is never ignored.
    pub fn first_besides(&self, honoured: &[&str]) -> Option<&'static Member> {
        self.iter()
            .map(|(member, _)| member)
            .find(|member| !honoured.contains(&member.name))
    }

    pub fn str(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        self.get(name)?.as_int()
    }

    pub fn bool(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    /// The items of a list, none when it is absent.
    pub fn list(&self, name: &str) -> &[Value] {
        self.get(name).map_or(&[], Value::as_list)
    }

    pub fn structure(&self, name: &str) -> Option<&Struct> {
        self.get(name)?.as_struct()
    }

    pub(crate) fn raw_fields(&self) -> &[(u16, Value)] {
        &self.fields
    }

    pub(crate) fn from_fields(shape: &'static Shape, fields: Vec<(u16, Value)>) -> Struct {
        Struct { shape, fields }
    }
}

impl PartialEq for Struct {
    fn eq(&self, other: &Struct) -> bool {
        std::ptr::eq(self.shape, other.shape)
            && self.fields.len() == other.fields.len()
            && self
                .fields
                .iter()
                .all(|(index, value)| other.at(*index) == Some(value.resolved()))
    }
}

impl fmt::Debug for Struct {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut structure = formatter.debug_struct(self.shape.name);
        for (member, value) in self.iter() {
            if self.shape.at(member.shape).is_sensitive() {
                structure.field(member.name, &"(sensitive)");
            } else {
                structure.field(member.name, value);
            }
        }
        structure.finish()
    }
}

impl Value {
    /// The value itself, behind any number of [`Value::Shared`].
    pub fn resolved(&self) -> &Value {
        let mut value = self;
        while let Value::Shared(shared) = value {
            value = shared;
        }
        value
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Boolean(value) = self.resolved() {
            Some(*value)
        } else {
            None
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        if let Value::Integer(value) = self.resolved() {
            Some(*value)
        } else {
            None
        }
    }

    pub fn as_double(&self) -> Option<f64> {
        if let Value::Double(value) = self.resolved() {
            Some(*value)
        } else {
            None
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(value) = self.resolved() {
            Some(value)
        } else {
            None
        }
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_timestamp_ms(&self) -> Option<i64> {
        if let Value::Timestamp(value) = self.resolved() {
            Some(*value)
        } else {
            None
        }
    }

    pub fn as_blob(&self) -> Option<&[u8]> {
        if let Value::Blob(value) = self.resolved() {
            Some(value)
        } else {
            None
        }
    }

    pub fn as_struct(&self) -> Option<&Struct> {
        if let Value::Struct(value) = self.resolved() {
            Some(value)
        } else {
            None
        }
    }

    /// The items of a list, none for any other kind.
    pub fn as_list(&self) -> &[Value] {
        if let Value::List(items) = self.resolved() {
            items
        } else {
            &[]
        }
    }
}

impl Deref for Str {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Str::Static(text) => text,
            Str::Shared(text) => text,
            Str::Owned(text) => text,
        }
    }
}

impl PartialEq for Str {
    fn eq(&self, other: &Str) -> bool {
        **self == **other
    }
}

impl Eq for Str {}

impl fmt::Debug for Str {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

impl From<&'static str> for Str {
    fn from(text: &'static str) -> Str {
        Str::Static(text)
    }
}

impl From<String> for Str {
    fn from(text: String) -> Str {
        Str::Owned(text)
    }
}

impl From<Arc<str>> for Str {
    fn from(text: Arc<str>) -> Str {
        Str::Shared(text)
    }
}

/// What a member can be set to: a value, or an option of one.
pub trait IntoMember {
    /// `None` leaves the member absent.
    fn into_member(self) -> Option<Value>;
}

impl<T: Into<Value>> IntoMember for T {
    fn into_member(self) -> Option<Value> {
        Some(self.into())
    }
}

impl<T: Into<Value>> IntoMember for Option<T> {
    fn into_member(self) -> Option<Value> {
        self.map(Into::into)
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Value {
                Value::$variant(value.into())
            }
        }
    )*};
}

value_from! {
    bool => Boolean,
    i64 => Integer, i32 => Integer, u32 => Integer, u16 => Integer,
    f64 => Double,
    Str => String, &'static str => String, String => String, Arc<str> => String,
    Struct => Struct,
    Arc<Value> => Shared,
}

/// A list; bytes are a [`Value::Blob`] and not a list of numbers.
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Value {
        Value::List(items.into_iter().map(Into::into).collect())
    }
}
