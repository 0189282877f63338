//! Variables in a policy's resources and values, `${aws:PrincipalAccount}` (AWS, "IAM policy elements:
//! Variables and tags").

use super::condition::is_known;
use super::wild::{self, Token, tokens};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The parts of a text: what is plain, and the names of its variables.
fn parts(text: &str) -> impl Iterator<Item = Result<&str, &str>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (part, after) = match rest.strip_prefix("${").and_then(|it| it.split_once('}')) {
            Some((name, after)) => (Err(name), after),
            None => {
                // One that has no end is plain text.
                let begun = usize::from(rest.starts_with("${")) * 2;
                let end = rest[begun..].find("${").map_or(rest.len(), |at| at + begun);
                (Ok(&rest[..end]), &rest[end..])
            }
        };
        rest = after;
        Some(part)
    })
}

/// Refuses variables that no request has.
pub fn check(text: &str) -> Result<(), String> {
    let mut names = parts(text).filter_map(Result::err);
    match names.find(|name| !is_literal(name) && !is_known(&name.to_ascii_lowercase())) {
        None => Ok(()),
        Some(name) => Err(format!("Policy has an unsupported variable: {name}")),
    }
}

/// Takes variables for plain text, as policies of the version 2008-10-17 have them.
pub fn disarm(text: &mut String) {
    *text = text.replace("${", "${$}{");
}

/// Whether a text fits a pattern with what its variables are in this request, whose own `*` and `?` are no
/// wildcards; no text does where one of them is absent.
pub fn fits(pattern: &str, context: &BTreeMap<String, Vec<String>>, text: &str) -> bool {
    if !pattern.contains("${") {
        return wild::wild(pattern, text);
    }
    let mut all = Vec::new();
    for part in parts(pattern) {
        match part {
            Ok(plain) => all.extend(tokens(plain)),
            Err(name) => match value(name, context) {
                Some(value) => all.extend(value.bytes().map(Token::Byte)),
                None => return false,
            },
        }
    }
    wild::fits(&all, text)
}

/// The text with what its variables are in this request; `None` where one of them is absent.
pub fn filled<'t>(text: &'t str, context: &BTreeMap<String, Vec<String>>) -> Option<Cow<'t, str>> {
    if !text.contains("${") {
        return Some(text.into());
    }
    let mut out = String::new();
    for part in parts(text) {
        match part {
            Ok(plain) => out.push_str(plain),
            Err(name) => out.push_str(value(name, context)?),
        }
    }
    Some(out.into())
}

fn value<'v>(name: &'v str, context: &'v BTreeMap<String, Vec<String>>) -> Option<&'v str> {
    if is_literal(name) {
        return Some(name);
    }
    match context.get(&name.to_ascii_lowercase())?.as_slice() {
        [value] => Some(value),
        _ => None,
    }
}

fn is_literal(name: &str) -> bool {
    matches!(name, "*" | "?" | "$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_what_the_request_says() {
        let context = BTreeMap::from([
            ("aws:principalaccount".to_owned(), vec!["123".to_owned()]),
            (
                "s3:requestobjecttagkeys".to_owned(),
                vec!["a".into(), "b".into()],
            ),
        ]);
        let filled = |text| filled(text, &context).map(Cow::into_owned);
        assert_eq!(filled("plain").as_deref(), Some("plain"));
        assert_eq!(
            filled("a/${aws:PrincipalAccount}/*").as_deref(),
            Some("a/123/*")
        );
        assert_eq!(filled("${$}${*}x${").as_deref(), Some("$*x${"));
        assert_eq!(filled("${aws:SourceVpc}"), None);
        assert_eq!(filled("${s3:RequestObjectTagKeys}"), None, "several");
        let fits = |pattern, text| fits(pattern, &context, text);
        assert!(fits("a/${aws:PrincipalAccount}/?*", "a/123/x"));
        assert!(fits("${*}${?}*", "*?x") && !fits("${*}${?}*", "xyx"));
        assert!(!fits("${aws:SourceVpc}*", ""), "it is absent");
        let mut old = "a${*}/${aws:PrincipalAccount}${".to_owned();
        disarm(&mut old);
        assert!(check(&old).is_ok());
        assert_eq!(
            filled(&old).as_deref(),
            Some("a${*}/${aws:PrincipalAccount}${")
        );
        assert!(check("a/${aws:PrincipalAccount}").is_ok());
        assert!(check("a/${aws:nickname}").is_err());
    }
}
