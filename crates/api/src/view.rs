//! What the typed views of requests in [`crate::input`] are made of.
//!
//! A view borrows a decoded [`Struct`] and reads members by their place in the
//! shape. Required members are plain values, because [`crate::decode()`] has
//! refused requests without them; lists are empty when absent.

use std::marker::PhantomData;
use std::slice;

use crate::value::{Str, Struct, Value};

/// A time in milliseconds since the Unix epoch.
pub type TimestampMs = i64;

/// The items of a list member.
#[derive(Clone, Debug)]
pub struct List<'a, T> {
    items: slice::Iter<'a, Value>,
    item: PhantomData<T>,
}

/// The entries of a map member.
pub type Map<'a> = &'a [(Str, Value)];

/// What a member can be read as.
pub trait FromValue<'a>: Sized {
    /// `None` when the value is of another kind.
    fn from_value(value: &'a Value) -> Option<Self>;
}

impl<'a, T: FromValue<'a>> Iterator for List<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.items.by_ref().find_map(T::from_value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.items.len()))
    }
}

impl<T> List<'_, T> {
    pub fn is_empty(&self) -> bool {
        self.items.len() == 0
    }

    /// How many items are left.
    pub fn len(&self) -> usize {
        self.items.len()
    }
}

impl<'a> FromValue<'a> for &'a str {
    fn from_value(value: &'a Value) -> Option<&'a str> {
        value.as_str()
    }
}

impl<'a> FromValue<'a> for i64 {
    fn from_value(value: &'a Value) -> Option<i64> {
        value.as_int().or_else(|| value.as_timestamp_ms())
    }
}

impl<'a> FromValue<'a> for f64 {
    fn from_value(value: &'a Value) -> Option<f64> {
        value.as_double()
    }
}

impl<'a> FromValue<'a> for bool {
    fn from_value(value: &'a Value) -> Option<bool> {
        value.as_bool()
    }
}

impl<'a> FromValue<'a> for &'a [u8] {
    fn from_value(value: &'a Value) -> Option<&'a [u8]> {
        value.as_blob()
    }
}

impl<'a> FromValue<'a> for Map<'a> {
    fn from_value(value: &'a Value) -> Option<Map<'a>> {
        if let Value::Map(entries) = value.resolved() {
            Some(entries)
        } else {
            None
        }
    }
}

impl<'a, T: FromValue<'a>> FromValue<'a> for List<'a, T> {
    fn from_value(value: &'a Value) -> Option<List<'a, T>> {
        Some(List {
            items: value.as_list().iter(),
            item: PhantomData,
        })
    }
}

pub(crate) fn get<'a, T: FromValue<'a>>(structure: &'a Struct, index: u16) -> Option<T> {
    T::from_value(structure.at(index)?)
}

pub(crate) fn need<'a, T: FromValue<'a>>(structure: &'a Struct, index: u16) -> T {
    get(structure, index).expect("decode refuses requests without required members")
}

pub(crate) fn list<'a, T: FromValue<'a>>(structure: &'a Struct, index: u16) -> List<'a, T> {
    let items = structure.at(index).map_or(&[][..], Value::as_list);
    List {
        items: items.iter(),
        item: PhantomData,
    }
}

/// Declares the view of a shape.
macro_rules! view {
    ($name:ident, $shape:expr) => {
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'a>(&'a crate::value::Struct);

        impl<'a> $name<'a> {
            /// Reads a structure of this shape.
            pub fn new(structure: &'a crate::value::Struct) -> Self {
                debug_assert!(
                    std::ptr::eq(structure.shape(), $shape),
                    "{}",
                    structure.shape().name
                );
                $name(structure)
            }

            /// The structure without its type.
            pub fn raw(self) -> &'a crate::value::Struct {
                self.0
            }
        }

        impl<'a> FromValue<'a> for $name<'a> {
            fn from_value(value: &'a crate::value::Value) -> Option<Self> {
                value.as_struct().map($name)
            }
        }
    };
}
pub(crate) use view;
