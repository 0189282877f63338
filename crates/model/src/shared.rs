//! Parts of messages that many are told.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::ops::Deref;
use std::sync::Arc;

/// What is large and told to many hosts: derived and written as JSON once, there and where it is kept.
#[derive(Clone, Debug)]
pub struct Shared<T> {
    body: Arc<T>,
    json: Option<Arc<RawValue>>,
}

impl<T: Serialize> Shared<T> {
    pub fn new(body: T) -> Self {
        let json = serde_json::value::to_raw_value(&body);
        Self {
            json: json.ok().map(Arc::from),
            body: Arc::new(body),
        }
    }

    /// Its JSON form.
    pub fn json(&self) -> &str {
        self.json.as_ref().map_or("", |json| json.get())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.body == other.body
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.json {
            Some(json) => json.serialize(serializer),
            None => self.body.serialize(serializer),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        let body = serde_json::from_str(json.get()).map_err(D::Error::custom)?;
        Ok(Self {
            body: Arc::new(body),
            json: Some(json.into()),
        })
    }
}
