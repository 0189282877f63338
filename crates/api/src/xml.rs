//! Values as XML, and the escaping that XML 1.0 needs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::shape::{Kind, Shape};
use crate::time;
use crate::value::{Struct, Value};

/// The first line of every answer.
pub const DECLARATION: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// The inner XML of a value, to be kept as [`Value::Raw`].
pub fn encode(shape: &'static Shape, value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    push(&mut out, shape, value);
    out
}

/// Appends an element with a value in it. Flattened lists and maps repeat the element.
pub fn push_element(out: &mut Vec<u8>, name: &str, shape: &'static Shape, value: &Value) {
    match (&shape.kind, value.resolved()) {
        (
            Kind::List {
                item,
                item_name,
                flattened: true,
                ..
            },
            Value::List(items),
        ) => {
            let name = if *item_name == "member" {
                name
            } else {
                item_name
            };
            items
                .iter()
                .for_each(|value| push_element(out, name, shape.at(*item), value));
        }
        (
            Kind::Map {
                flattened: true, ..
            },
            Value::Map(entries),
        ) => {
            entries
                .iter()
                .for_each(|(key, value)| push_entry(out, name, shape, key, value));
        }
        (_, value) => {
            open(out, name);
            push(out, shape, value);
            close(out, name);
        }
    }
}

/// Appends the members of a structure, in the order of the model.
pub fn push_members(out: &mut Vec<u8>, structure: &Struct) {
    push_some(out, structure, |_| true);
}

/// The same within a structure, but what is simple first and lists last. Old readers (boto 2) take the end of
/// an inner list's item for the structure's own, and lose what comes after it.
fn push_inner(out: &mut Vec<u8>, structure: &Struct) {
    let is_list = |shape: &Shape| matches!(shape.kind, Kind::List { .. } | Kind::Map { .. });
    let is_structure = |shape: &Shape| matches!(shape.kind, Kind::Structure(_));
    push_some(out, structure, |of| !is_list(of) && !is_structure(of));
    push_some(out, structure, is_structure);
    push_some(out, structure, is_list);
}

fn push_some(out: &mut Vec<u8>, structure: &Struct, wanted: impl Fn(&Shape) -> bool) {
    let shape = structure.shape();
    let members = shape.members();
    for (index, value) in structure.raw_fields() {
        let member = &members[usize::from(*index)];
        let of = shape.at(member.shape);
        if wanted(of) {
            push_element(out, member.xml, of, value);
        }
    }
}

/// Appends what goes between an element's tags.
///
/// A value of another kind than its shape is a mistake of the program: debug
/// builds panic, release builds write nothing.
pub fn push(out: &mut Vec<u8>, shape: &'static Shape, value: &Value) {
    match (&shape.kind, value) {
        (_, Value::Shared(shared)) => push(out, shape, shared),
        (_, Value::Raw(xml)) => out.extend_from_slice(xml),
        (Kind::Structure(_), Value::Struct(structure)) => {
            debug_assert!(
                std::ptr::eq(structure.shape(), shape),
                "{} in {}",
                structure.shape().name,
                shape.name
            );
            push_inner(out, structure);
        }
        (
            Kind::List {
                item, item_name, ..
            },
            Value::List(items),
        ) => {
            items
                .iter()
                .for_each(|value| push_element(out, item_name, shape.at(*item), value));
        }
        (Kind::Map { .. }, Value::Map(entries)) => {
            entries
                .iter()
                .for_each(|(key, value)| push_entry(out, "entry", shape, key, value));
        }
        (Kind::String { .. } | Kind::Enum(_), Value::String(text)) => escape(out, text),
        (Kind::Integer { .. }, Value::Integer(number)) => push_integer(out, *number),
        (Kind::Double { .. }, Value::Double(number)) => {
            out.extend_from_slice(number.to_string().as_bytes())
        }
        (Kind::Boolean, Value::Boolean(true)) => out.extend_from_slice(b"true"),
        (Kind::Boolean, Value::Boolean(false)) => out.extend_from_slice(b"false"),
        (Kind::Timestamp, Value::Timestamp(ms)) => time::push_ms(out, *ms),
        (Kind::Blob { .. }, Value::Blob(bytes)) => {
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes())
        }
        _ => debug_assert!(false, "{value:?} is no {}", shape.name),
    }
}

fn push_entry(out: &mut Vec<u8>, name: &str, map: &'static Shape, key: &str, value: &Value) {
    let Kind::Map {
        value: value_shape,
        key_name,
        value_name,
        ..
    } = map.kind
    else {
        return;
    };
    open(out, name);
    open(out, key_name);
    escape(out, key);
    close(out, key_name);
    push_element(out, value_name, map.at(value_shape), value);
    close(out, name);
}

pub(crate) fn open(out: &mut Vec<u8>, name: &str) {
    out.reserve(name.len() + 2);
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    out.push(b'>');
}

pub(crate) fn close(out: &mut Vec<u8>, name: &str) {
    out.reserve(name.len() + 3);
    out.extend_from_slice(b"</");
    out.extend_from_slice(name.as_bytes());
    out.push(b'>');
}

fn push_integer(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Bytes that [`escape`] has to look at: markup, control characters, and the
/// first byte of U+FFFE and U+FFFF.
static SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = byte != b'\t' as usize && byte != b'\n' as usize;
        byte += 1;
    }
    special[b'<' as usize] = true;
    special[b'>' as usize] = true;
    special[b'&' as usize] = true;
    special[b'"' as usize] = true;
    special[0xef] = true;
    special
};

/// Whether XML 1.0 can have it (2.2); a reader gets anything else as U+FFFD.
pub fn is_character(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

/// Appends text as XML 1.0 character data, also fit for an attribute in double quotes.
///
/// Characters that XML 1.0 can't have (control characters, U+FFFE, U+FFFF)
/// become U+FFFD; a carriage return is escaped, since parsers drop it.
pub fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    let mut at = 0;
    while at < bytes.len() {
        if !SPECIAL[usize::from(bytes[at])] {
            at += 1;
            continue;
        }
        let (length, replacement) = match bytes[at] {
            b'<' => (1, "&lt;"),
            b'>' => (1, "&gt;"),
            b'&' => (1, "&amp;"),
            b'"' => (1, "&quot;"),
            b'\r' => (1, "&#xD;"),
            0xef if matches!(bytes.get(at..at + 3), Some([_, 0xbf, 0xbe | 0xbf])) => {
                (3, "\u{fffd}")
            }
            0xef => {
                at += 1;
                continue;
            }
            _ => (1, "\u{fffd}"),
        };
        out.extend_from_slice(&bytes[plain_from..at]);
        out.extend_from_slice(replacement.as_bytes());
        at += length;
        plain_from = at;
    }
    out.extend_from_slice(&bytes[plain_from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        escape(&mut out, text);
        String::from_utf8(out).expect("text stays text")
    }

    #[test]
    fn markup_and_forbidden_characters_are_escaped() {
        assert_eq!(escaped("a<b>&\"c'"), "a&lt;b&gt;&amp;&quot;c'");
        assert_eq!(escaped("tab\tline\nreturn\r"), "tab\tline\nreturn&#xD;");
        assert_eq!(escaped("\0\u{1b}[31m"), "\u{fffd}\u{fffd}[31m");
        assert_eq!(
            escaped("\u{fffe}\u{ffff}\u{fffd}\u{ff21}é😀"),
            "\u{fffd}\u{fffd}\u{fffd}\u{ff21}é😀"
        );
    }

    #[test]
    fn integers_are_written_to_both_ends() {
        for number in [0, 7, -1, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_integer(&mut out, number);
            assert_eq!(String::from_utf8_lossy(&out), number.to_string());
        }
    }

    proptest::proptest! {
        #[test]
        fn escaped_text_has_only_legal_characters(text in proptest::prelude::any::<String>()) {
            let escaped = escaped(&text);
            proptest::prop_assert!(escaped.chars().all(is_character));
            proptest::prop_assert!(!escaped.contains(['<', '"', '\r']));
        }
    }
}
