//! Patterns of `*` and `?`, where some of their characters may be meant as they are.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// `*`
    Any,
    /// `?`
    One,
    Byte(u8),
}

pub fn tokens(pattern: &str) -> impl Iterator<Item = Token> {
    pattern.bytes().map(|byte| match byte {
        b'*' => Token::Any,
        b'?' => Token::One,
        byte => Token::Byte(byte),
    })
}

/// Whether a text fits a pattern.
pub fn wild(pattern: &str, text: &str) -> bool {
    fits(&tokens(pattern).collect::<Vec<_>>(), text)
}

/// [`wild`] for a pattern that was taken apart.
pub fn fits(pattern: &[Token], text: &str) -> bool {
    let text = text.as_bytes();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Token::Any) => {
                star = Some((p, t));
                p += 1;
            }
            Some(token) if [Token::One, Token::Byte(text[t])].contains(token) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // The last star takes one byte more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|token| *token == Token::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("?b", "ab", true),
            ("?b", "b", false),
            ("*a*b*", "xaybz", true),
            ("a**", "a", true),
            ("", "x", false),
        ] {
            assert_eq!(wild(pattern, text), fits, "{pattern} {text}");
        }
    }
}
