//! A change as the log keeps it: JSON that names each row's kind and key, so that it can be folded
//! without a look into the row.
//!
//! ```json
//! {"puts":[[13,"i-0ab…",{…}]],"deletes":[[12,"vol-0cd…"]],"events":[{"instance":"i-0ab…",…}]}
//! ```

use crate::StoreError;
use boira_core::{Change, Kind};
use boira_model::Event;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The last word about each row: what it is, or that it is gone.
pub type Folded = BTreeMap<(u8, String), Option<String>>;

#[derive(Deserialize)]
pub struct Record<'a> {
    #[serde(borrow)]
    puts: Vec<(u8, String, &'a RawValue)>,
    deletes: Vec<(u8, String)>,
    /// Lines for the instances' histories.
    pub events: Vec<Event>,
}

pub fn write(change: &Change) -> String {
    let mut text = String::from("{\"puts\":[");
    for (index, row) in change.puts.iter().enumerate() {
        comma(&mut text, index);
        let (kind, key) = (row.kind() as u8, quoted(&row.key()));
        text.push_str(&format!("[{kind},{key},"));
        text.push_str(&row.to_json());
        text.push(']');
    }
    text.push_str("],\"deletes\":[");
    for (index, (kind, key)) in change.deletes.iter().enumerate() {
        comma(&mut text, index);
        text.push_str(&format!("[{},{}]", *kind as u8, quoted(key)));
    }
    text.push_str("],\"events\":");
    text.push_str(&serde_json::to_string(&change.events).expect("events have string keys only"));
    text.push('}');
    text
}

fn comma(text: &mut String, index: usize) {
    if index > 0 {
        text.push(',');
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

impl<'a> Record<'a> {
    pub fn read(text: &'a str) -> Result<Self, StoreError> {
        serde_json::from_str(text)
            .map_err(|error| StoreError::Corrupt(format!("a change of the log: {error}")))
    }

    /// Puts come before deletes, and no key is among both.
    pub fn apply(&self, rows: &mut Folded) {
        for (kind, key, body) in &self.puts {
            rows.insert((*kind, key.clone()), Some(body.get().to_owned()));
        }
        for (kind, key) in &self.deletes {
            rows.insert((*kind, key.clone()), None);
        }
    }

    pub fn deleted_instances(&self) -> impl Iterator<Item = &str> {
        let deletes = self.deletes.iter();
        let instances = deletes.filter(|(kind, _)| *kind == Kind::Instance as u8);
        instances.map(|(_, key)| key.as_str())
    }
}
