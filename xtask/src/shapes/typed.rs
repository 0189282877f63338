//! The typed views of requests and the builders of answers, for the operations
//! that Boira implements. A shape that several operations use is written once.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::model::{Kind, Member, Model};

/// The two modules of one service.
pub struct Typed {
    pub input: String,
    pub output: String,
}

/// Writes views and builders of every structure that the operations reach.
pub fn generate(model: &Model, operations: &[&str], header: &str) -> Result<Typed> {
    let (mut inputs, mut outputs) = (BTreeSet::new(), BTreeSet::new());
    for name in operations {
        let operation = model
            .operation(name)
            .with_context(|| format!("{} has no operation {name}", model.service))?;
        reach(model, &operation.input, &mut inputs);
        operation
            .output
            .iter()
            .for_each(|shape| reach(model, shape, &mut outputs));
    }
    let service = &model.service;
    let mut input = format!(
        "//! Requests of {service}, read by name.\n{header}\nuse crate::shapes::{service}::S;\nuse crate::view::*;\n"
    );
    for shape in inputs {
        view(&mut input, model, shape)?;
    }
    let mut output = format!(
        "//! Answers of {service}, built by name.\n{header}\nuse crate::build::*;\nuse crate::shapes::{service}::S;\n"
    );
    for shape in outputs {
        builder(&mut output, model, shape)?;
    }
    Ok(Typed { input, output })
}

/// Adds the structures that a shape leads to.
fn reach<'m>(model: &'m Model, name: &str, reached: &mut BTreeSet<&'m str>) {
    let shape = model.shape(name);
    match &shape.kind {
        Kind::Structure(members) if reached.insert(&shape.name) => {
            members
                .iter()
                .for_each(|member| reach(model, &member.shape, reached));
        }
        Kind::List { item, .. } => reach(model, item, reached),
        Kind::Map { value, .. } => reach(model, value, reached),
        _ => {}
    }
}

fn view(out: &mut String, model: &Model, name: &str) -> Result<()> {
    writeln!(out, "\nview!({name}, &S[{}]);", model.index(name))?;
    let members = members(model, name);
    if members.is_empty() {
        return Ok(());
    }
    writeln!(out, "impl<'a> {name}<'a> {{")?;
    for (index, member) in members.iter().enumerate() {
        let kind = view_type(model, &member.shape);
        let is_list = matches!(model.shape(&member.shape).kind, Kind::List { .. });
        let (result, read) = match (is_list, member.required) {
            (true, _) => (kind, "list"),
            (false, true) => (kind, "need"),
            (false, false) => (format!("Option<{kind}>"), "get"),
        };
        writeln!(
            out,
            "    pub fn {}(self) -> {result} {{ {read}(self.0, {index}) }}",
            method(member)
        )?;
    }
    out.push_str("}\n");
    Ok(())
}

fn builder(out: &mut String, model: &Model, name: &str) -> Result<()> {
    writeln!(out, "\nbuilder!({name}, &S[{}]);", model.index(name))?;
    let members = members(model, name);
    if members.is_empty() {
        return Ok(());
    }
    writeln!(out, "impl {name} {{")?;
    for (index, member) in members.iter().enumerate() {
        let kind = builder_kind(model, &member.shape);
        writeln!(
            out,
            "    pub fn {}(self, value: impl Gives<{kind}>) -> Self {{ self.put({index}, value.gives()) }}",
            method(member)
        )?;
    }
    out.push_str("}\n");
    Ok(())
}

fn members<'m>(model: &'m Model, name: &str) -> &'m [Member] {
    match &model.shape(name).kind {
        Kind::Structure(members) => members,
        _ => &[],
    }
}

fn view_type(model: &Model, name: &str) -> String {
    match &model.shape(name).kind {
        Kind::Structure(_) => format!("{name}<'a>"),
        Kind::List { item, .. } => format!("List<'a, {}>", view_type(model, item)),
        Kind::Map { .. } => "Map<'a>".to_owned(),
        Kind::String { .. } | Kind::Enum(_) => "&'a str".to_owned(),
        Kind::Integer { .. } => "i64".to_owned(),
        Kind::Double { .. } => "f64".to_owned(),
        Kind::Boolean => "bool".to_owned(),
        Kind::Timestamp => "TimestampMs".to_owned(),
        Kind::Blob { .. } => "&'a [u8]".to_owned(),
    }
}

fn builder_kind(model: &Model, name: &str) -> String {
    match &model.shape(name).kind {
        Kind::Structure(_) => name.to_owned(),
        Kind::List { item, .. } => format!("ListOf<{}>", builder_kind(model, item)),
        Kind::Map { .. } => "Pairs".to_owned(),
        Kind::String { .. } | Kind::Enum(_) => "Text".to_owned(),
        Kind::Integer { .. } => "Int".to_owned(),
        Kind::Double { .. } => "Float".to_owned(),
        Kind::Boolean => "Bool".to_owned(),
        Kind::Timestamp => "Time".to_owned(),
        Kind::Blob { .. } => "Bytes".to_owned(),
    }
}

/// A member's name as a method's: `VpcId` is `vpc_id`, `Type` is `r#type`.
fn method(member: &Member) -> String {
    let characters: Vec<char> = member.name.chars().collect();
    let mut name = String::new();
    for (at, character) in characters.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| characters[before]);
        let after_is_small = characters
            .get(at + 1)
            .is_some_and(|after| after.is_lowercase());
        let starts_word = character.is_uppercase()
            && before.is_some_and(|before| !before.is_uppercase() || after_is_small);
        if starts_word {
            name.push('_');
        }
        name.extend(character.to_lowercase());
    }
    if KEYWORDS.contains(&name.as_str()) {
        name.insert_str(0, "r#");
    }
    name
}

/// Rust's keywords that are also words of AWS's.
const KEYWORDS: [&str; 14] = [
    "as", "const", "continue", "for", "in", "loop", "match", "move", "ref", "return", "static",
    "type", "use", "where",
];
