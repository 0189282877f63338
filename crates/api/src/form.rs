//! Query strings and form bodies: `a=1&b=x%20y`.

use std::borrow::Cow;

use crate::error::ApiError;

/// A request's parameters, in the order of the request.
pub type Parameters<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// The most parameters that a request may have.
pub const MAX_PARAMETERS: usize = 20_000;

/// Parses `application/x-www-form-urlencoded` text.
///
/// # Errors
/// `MalformedQueryString` for a broken escape, for text that isn't UTF-8 and for
/// more than [`MAX_PARAMETERS`].
pub fn parse(text: &[u8]) -> Result<Parameters<'_>, ApiError> {
    let mut parameters = Vec::new();
    for pair in text
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        if parameters.len() == MAX_PARAMETERS {
            return Err(ApiError::malformed_query(
                "The request has too many parameters.",
            ));
        }
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = match equals {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        parameters.push((unescape(name)?, unescape(value)?));
    }
    Ok(parameters)
}

/// The value of the first parameter of this name.
pub fn get<'p>(parameters: &'p [(Cow<'_, str>, Cow<'_, str>)], name: &str) -> Option<&'p str> {
    parameters
        .iter()
        .find(|(present, _)| present == name)
        .map(|(_, value)| value.as_ref())
}

/// Undoes `+` and `%XX`; borrows where there is neither.
fn unescape(text: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    if !text.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return match std::str::from_utf8(text) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(_) => Err(not_utf8()),
        };
    }
    let plus_undone: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    let bytes = percent_decode(&plus_undone).ok_or_else(|| {
        ApiError::malformed_query("The query string contains a malformed percent escape.")
    })?;
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|_| not_utf8())
}

/// Undoes `%XX`; `None` when an escape is broken.
pub fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = hex_digit(*bytes.next()?)?;
        let low = hex_digit(*bytes.next()?)?;
        decoded.push(high << 4 | low);
    }
    Some(decoded)
}

/// Appends RFC 3986's percent-encoding, as signatures want it: everything but
/// letters, digits, `-`, `.`, `_`, `~` and the bytes in `keep` becomes `%XX`.
pub fn percent_encode(out: &mut String, text: &[u8], keep: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

fn not_utf8() -> ApiError {
    ApiError::malformed_query("The query string is not valid UTF-8.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        let parameters =
            parse(b"Action=Run&Name=a+b%20c%2B%C3%A9&&Empty&Equals=a=b").expect("well formed");
        let expected = [
            ("Action", "Run"),
            ("Name", "a b c+é"),
            ("Empty", ""),
            ("Equals", "a=b"),
        ];
        assert!(
            parameters
                .iter()
                .map(|(name, value)| (name.as_ref(), value.as_ref()))
                .eq(expected)
        );
        assert!(matches!(parameters[0].1, Cow::Borrowed(_)));
        assert_eq!(get(&parameters, "Name"), Some("a b c+é"));
        assert_eq!(get(&parameters, "name"), None);
    }

    #[test]
    fn broken_text_is_refused() {
        for text in [
            &b"a=%"[..],
            b"a=%4",
            b"a=%zz",
            b"a=%ff",
            b"\xff=1",
            b"%c3=1",
        ] {
            assert_eq!(
                parse(text).expect_err("broken").code,
                "MalformedQueryString"
            );
        }
        let many = "a&".repeat(MAX_PARAMETERS + 1);
        assert_eq!(
            parse(many.as_bytes()).expect_err("too many").code,
            "MalformedQueryString"
        );
    }

    proptest::proptest! {
        #[test]
        fn encoding_and_decoding_any_bytes_is_the_identity(bytes: Vec<u8>) {
            let mut text = String::new();
            percent_encode(&mut text, &bytes, b"/");
            proptest::prop_assert_eq!(percent_decode(text.as_bytes()), Some(bytes));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
