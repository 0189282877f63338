//! What the typed builders of answers in [`crate::output`] are made of.
//!
//! A builder's methods take whatever [`Gives`] the member's kind: the value, an
//! option of it (`None` leaves the member absent), or a [`Value`] for what is
//! cached or shared. Constants aren't copied; text of another lifetime has to be
//! owned or shared.

use std::sync::Arc;

use crate::value::{Str, Value};

/// A value of the kind `K`, if there is one.
pub trait Gives<K> {
    fn gives(self) -> Option<Value>;
}

/// Kinds of members; a structure's kind is its builder.
pub enum Text {}
pub enum Int {}
pub enum Float {}
pub enum Bool {}
/// Milliseconds since the Unix epoch.
pub enum Time {}
pub enum Bytes {}
pub enum Pairs {}
pub struct ListOf<K>(std::marker::PhantomData<K>);

impl<K> Gives<K> for Value {
    fn gives(self) -> Option<Value> {
        Some(self)
    }
}

impl<K> Gives<K> for Option<Value> {
    fn gives(self) -> Option<Value> {
        self
    }
}

impl<K> Gives<K> for Arc<Value> {
    fn gives(self) -> Option<Value> {
        Some(Value::Shared(self))
    }
}

impl<K, T: Gives<K>> Gives<ListOf<K>> for Vec<T> {
    fn gives(self) -> Option<Value> {
        Some(Value::List(
            self.into_iter().filter_map(Gives::gives).collect(),
        ))
    }
}

impl<K, T: Gives<K>> Gives<ListOf<K>> for Option<Vec<T>> {
    fn gives(self) -> Option<Value> {
        self.and_then(Gives::gives)
    }
}

macro_rules! gives {
    ($($from:ty => $kind:ty, $convert:expr;)*) => {$(
        impl Gives<$kind> for $from {
            fn gives(self) -> Option<Value> {
                Some($convert(self))
            }
        }

        impl Gives<$kind> for Option<$from> {
            fn gives(self) -> Option<Value> {
                self.map($convert)
            }
        }
    )*};
}

gives! {
    Str => Text, Value::String;
    &'static str => Text, |text| Value::String(Str::Static(text));
    String => Text, |text| Value::String(Str::Owned(text));
    Arc<str> => Text, |text| Value::String(Str::Shared(text));
    i64 => Int, Value::Integer;
    i32 => Int, |number| Value::Integer(i64::from(number));
    u32 => Int, |number| Value::Integer(i64::from(number));
    u16 => Int, |number| Value::Integer(i64::from(number));
    u8 => Int, |number| Value::Integer(i64::from(number));
    f64 => Float, Value::Double;
    bool => Bool, Value::Boolean;
    i64 => Time, Value::Timestamp;
    Vec<u8> => Bytes, Value::Blob;
    Vec<(Str, Value)> => Pairs, Value::Map;
}

/// Declares the builder of a shape.
macro_rules! builder {
    ($name:ident, $shape:expr) => {
        #[derive(Clone, Debug, PartialEq)]
        #[must_use]
        pub struct $name(crate::value::Struct);

        impl $name {
            #[allow(clippy::new_without_default)]
            pub const fn new() -> Self {
                $name(crate::value::Struct::new($shape))
            }

            #[allow(dead_code)]
            fn put(mut self, index: u16, value: Option<crate::value::Value>) -> Self {
                self.0.set_at(index, value);
                self
            }
        }

        impl From<$name> for crate::value::Struct {
            fn from(built: $name) -> Self {
                built.0
            }
        }

        impl From<$name> for crate::value::Value {
            fn from(built: $name) -> Self {
                crate::value::Value::Struct(built.0)
            }
        }

        impl Gives<$name> for $name {
            fn gives(self) -> Option<crate::value::Value> {
                Some(crate::value::Value::Struct(self.0))
            }
        }

        impl Gives<$name> for Option<$name> {
            fn gives(self) -> Option<crate::value::Value> {
                self.and_then(Gives::gives)
            }
        }
    };
}
pub(crate) use builder;
