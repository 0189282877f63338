//! A service's model as botocore has it, reduced to what the tables need.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::OPEN_ENUMS;

pub struct Model {
    pub service: String,
    pub version: String,
    pub is_ec2: bool,
    pub namespace: String,
    /// Sorted by name, as are the shapes and the members of each.
    pub operations: Vec<Operation>,
    pub shapes: Vec<Shape>,
    indices: BTreeMap<String, usize>,
}

pub struct Operation {
    pub name: String,
    pub input: String,
    pub output: Option<String>,
    pub result_wrapper: Option<String>,
    pub paging: Option<Paging>,
}

pub struct Paging {
    pub input_token: String,
    pub output_token: String,
    pub limit: Option<String>,
}

pub struct Shape {
    pub name: String,
    pub kind: Kind,
}

pub enum Kind {
    Structure(Vec<Member>),
    List {
        item: String,
        item_name: String,
        flattened: bool,
        min: u32,
        max: Option<u32>,
    },
    Map {
        key: String,
        value: String,
        key_name: String,
        value_name: String,
        flattened: bool,
    },
    String {
        min: u32,
        max: Option<u32>,
        sensitive: bool,
    },
    Enum(Vec<String>),
    Integer {
        min: i64,
        max: i64,
    },
    Double {
        min: Option<f64>,
        max: Option<f64>,
    },
    Boolean,
    Timestamp,
    Blob {
        sensitive: bool,
    },
}

pub struct Member {
    pub name: String,
    pub query: String,
    pub xml: String,
    pub shape: String,
    pub required: bool,
}

impl Model {
    /// Reads the model in botocore's `data/SERVICE/VERSION`.
    pub fn load(directory: &Path, service: &str) -> Result<Model> {
        let model = read_json(directory, "service-2.json")?;
        let paginators = read_json(directory, "paginators-1.json")?;
        let metadata = &model["metadata"];
        let is_ec2 = match metadata["protocol"].as_str() {
            Some("ec2") => true,
            Some("query") => false,
            other => bail!("{service}: protocol {other:?} has no codec yet"),
        };
        let version = text(metadata, "apiVersion")?;
        let namespace = text(metadata, "xmlNamespace")?;
        let namespace = if is_ec2 {
            namespace.trim_end_matches(&version).to_owned()
        } else {
            namespace
        };
        let object = |key: &str| {
            model[key]
                .as_object()
                .with_context(|| format!("{service}: no {key}"))
        };

        // An operation without parameters takes the structure without a name.
        let mut shapes = vec![Shape {
            name: String::new(),
            kind: Kind::Structure(Vec::new()),
        }];
        for (name, shape) in object("shapes")? {
            let kind =
                kind(name, shape, is_ec2).with_context(|| format!("{service}: shape {name}"))?;
            shapes.push(Shape {
                name: name.clone(),
                kind,
            });
        }
        let indices = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| (shape.name.clone(), index))
            .collect();
        let operations = object("operations")?
            .iter()
            .map(|(name, operation)| Operation {
                name: name.clone(),
                input: optional_text(&operation["input"], "shape").unwrap_or_default(),
                output: optional_text(&operation["output"], "shape"),
                result_wrapper: optional_text(&operation["output"], "resultWrapper"),
                paging: paging(&paginators["pagination"][name]),
            })
            .collect();
        Ok(Model {
            service: service.to_owned(),
            version,
            is_ec2,
            namespace,
            operations,
            shapes,
            indices,
        })
    }

    /// The place of a shape in the table.
    pub fn index(&self, shape: &str) -> usize {
        self.indices[shape]
    }

    pub fn shape(&self, name: &str) -> &Shape {
        &self.shapes[self.index(name)]
    }

    pub fn operation(&self, name: &str) -> Option<&Operation> {
        self.operations
            .iter()
            .find(|operation| operation.name == name)
    }
}

/// Reads a JSON file, which newer wheels have compressed.
fn read_json(directory: &Path, name: &str) -> Result<Value> {
    let plain = directory.join(name);
    let bytes = if plain.exists() {
        std::fs::read(&plain)?
    } else {
        let compressed = directory.join(format!("{name}.gz"));
        let output = Command::new("gzip")
            .arg("-dc")
            .arg(&compressed)
            .output()
            .context("start gzip")?;
        ensure!(output.status.success(), "gzip -dc {}", compressed.display());
        output.stdout
    };
    serde_json::from_slice(&bytes).with_context(|| format!("parse {}", plain.display()))
}

fn text(value: &Value, key: &str) -> Result<String> {
    optional_text(value, key).with_context(|| format!("no {key}"))
}

fn optional_text(value: &Value, key: &str) -> Option<String> {
    value[key].as_str().map(str::to_owned)
}

fn paging(value: &Value) -> Option<Paging> {
    Some(Paging {
        input_token: optional_text(value, "input_token")?,
        output_token: optional_text(value, "output_token")?,
        limit: optional_text(value, "limit_key"),
    })
}

fn kind(name: &str, shape: &Value, is_ec2: bool) -> Result<Kind> {
    let sensitive = shape["sensitive"].as_bool().unwrap_or(false);
    let flattened = shape["flattened"].as_bool().unwrap_or(false);
    let bound = |key: &str| shape[key].as_u64().map(u32::try_from).transpose();
    Ok(match shape["type"].as_str().context("no type")? {
        "structure" => Kind::Structure(members(shape, is_ec2)?),
        "list" => Kind::List {
            item: text(&shape["member"], "shape")?,
            item_name: optional_text(&shape["member"], "locationName")
                .unwrap_or("member".to_owned()),
            flattened,
            min: bound("min")?.unwrap_or(0),
            max: bound("max")?,
        },
        "map" => Kind::Map {
            key: text(&shape["key"], "shape")?,
            value: text(&shape["value"], "shape")?,
            key_name: optional_text(&shape["key"], "locationName").unwrap_or("key".to_owned()),
            value_name: optional_text(&shape["value"], "locationName")
                .unwrap_or("value".to_owned()),
            flattened,
        },
        "string" if shape["enum"].is_array() && !OPEN_ENUMS.contains(&name) => {
            let values = shape["enum"].as_array().context("enum")?;
            let mut values: Vec<String> = values
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            values.sort();
            values.dedup();
            Kind::Enum(values)
        }
        "string" => Kind::String {
            min: bound("min")?.unwrap_or(0),
            max: bound("max")?,
            sensitive,
        },
        "integer" => Kind::Integer {
            min: shape["min"].as_i64().unwrap_or(i64::from(i32::MIN)),
            max: shape["max"].as_i64().unwrap_or(i64::from(i32::MAX)),
        },
        "long" => Kind::Integer {
            min: shape["min"].as_i64().unwrap_or(i64::MIN),
            max: shape["max"].as_i64().unwrap_or(i64::MAX),
        },
        "double" | "float" => Kind::Double {
            min: shape["min"].as_f64(),
            max: shape["max"].as_f64(),
        },
        "boolean" => Kind::Boolean,
        "timestamp" => Kind::Timestamp,
        "blob" => Kind::Blob { sensitive },
        other => bail!("unknown type {other}"),
    })
}

fn members(shape: &Value, is_ec2: bool) -> Result<Vec<Member>> {
    let required: Vec<&str> = shape["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut members = Vec::new();
    for (name, member) in shape["members"].as_object().context("no members")? {
        let location = optional_text(member, "locationName");
        // EC2 capitalises the name of an answer's element to make the parameter's.
        let query = match (optional_text(member, "queryName"), &location) {
            (Some(query), _) => query,
            (None, Some(location)) if is_ec2 => capitalised(location),
            (None, Some(location)) => location.clone(),
            (None, None) => name.clone(),
        };
        members.push(Member {
            name: name.clone(),
            query,
            xml: location.unwrap_or_else(|| name.clone()),
            shape: text(member, "shape")?,
            required: required.contains(&name.as_str()),
        });
    }
    Ok(members)
}

fn capitalised(name: &str) -> String {
    let mut characters = name.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
