//! The description of Boira's own API names exactly the routes that are served.

use serde_json::Value;
use std::collections::BTreeSet;

const ROUTES: &str = include_str!("../src/admin.rs");
const DESCRIPTION: &str = include_str!("../src/openapi.json");
const METHODS: [&str; 6] = ["get", "put", "post", "patch", "delete", "head"];

fn description() -> Value {
    serde_json::from_str(DESCRIPTION).expect("the description is JSON")
}

/// Method and path of each `.route("PATH", METHOD(…).METHOD(…))` of the router's source, which is the
/// one list of them.
fn routed() -> BTreeSet<(String, String)> {
    let source: String = ROUTES.split_whitespace().collect();
    let mut routes = BTreeSet::new();
    for statement in source.split(".route(\"").skip(1) {
        let (path, rest) = statement.split_once("\",").expect("a path ends");
        let calls = arguments(rest);
        for method in METHODS {
            if calls.contains(&format!("{method}(")) {
                routes.insert((method.to_owned(), path.to_owned()));
            }
        }
    }
    routes
}

/// The text up to the parenthesis that closes the call.
fn arguments(text: &str) -> &str {
    let mut depth = 0;
    let end = text.find(|character| {
        depth += match character {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth < 0
    });
    &text[..end.expect("a call ends")]
}

fn described() -> BTreeSet<(String, String)> {
    let description = description();
    let paths = description["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("a path has operations");
            methods
                .keys()
                .map(move |method| (method.clone(), path.clone()))
        })
        .collect()
}

#[test]
fn every_route_is_described_and_nothing_else_is() {
    let routed = routed();
    assert!(routed.contains(&("head".to_owned(), "/blobs/{sha256}".to_owned())));
    assert_eq!(described(), routed);
}

#[test]
fn every_reference_leads_to_a_component() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let description = description();
    let mut found = Vec::new();
    references(&description, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("references stay inside");
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn operations_have_names_of_their_own_and_their_paths_parameters() {
    let description = description();
    let mut names = BTreeSet::new();
    for (path, item) in description["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let name = operation["operationId"].as_str().expect("a name");
            assert!(names.insert(name.to_owned()), "{name} twice");
            let declared: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "path")
                .filter_map(|parameter| parameter["name"].as_str())
                .collect();
            let placed: BTreeSet<&str> = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            assert_eq!(declared, placed, "{method} {path}");
        }
    }
}
