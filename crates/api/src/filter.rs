//! EC2's filters: `Filter.1.Name=tag:Owner&Filter.1.Value.1=team-*`.
//!
//! Values of one filter are alternatives, filters all have to hold. Values are
//! case-sensitive; `*` stands for any text, `?` for one character, and a
//! backslash takes either literally ("Filtering your resources" in the EC2 user
//! guide). Filters on tags (`tag:KEY`, `tag-key`, `tag-value`) work the same for
//! every kind of resource and are answered here.

use std::collections::BTreeMap;

use crate::error::ApiError;
use crate::value::{Struct, Value};

/// The most values that a request's filters may have together.
pub const MAX_VALUES: usize = 200;

/// The filters of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(Vec<Filter>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Filter {
    name: String,
    values: Vec<Pattern>,
}

/// A filter's value with its wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Is(char),
    AnyOne,
    AnyText,
}

impl Filters {
    /// Reads the member `Filters` of a request.
    ///
    /// `known` are the names that the kind of resource can be filtered by;
    /// `tagged` says that it has tags.
    ///
    /// # Errors
    /// `InvalidParameterValue` for an unknown name, `MissingParameter` for a
    /// filter without name or values, `FilterLimitExceeded` above [`MAX_VALUES`].
    pub fn of(request: &Struct, known: &[&str], tagged: bool) -> Result<Filters, ApiError> {
        let mut filters = Vec::new();
        let mut value_count = 0;
        for (place, filter) in request
            .list("Filters")
            .iter()
            .filter_map(Value::as_struct)
            .enumerate()
        {
            let number = place + 1;
            let name = filter.str("Name").ok_or_else(|| missing(number, "Name"))?;
            let is_tags =
                tagged && (name == "tag-key" || name == "tag-value" || name.starts_with("tag:"));
            if !is_tags && !known.contains(&name) {
                let name: String = name.chars().take(200).collect();
                return Err(ApiError::invalid_parameter_value(format!(
                    "The filter '{name}' is invalid"
                )));
            }
            let values: Vec<Pattern> = filter
                .list("Values")
                .iter()
                .filter_map(Value::as_str)
                .map(Pattern::new)
                .collect();
            if values.is_empty() {
                return Err(missing(number, "Value"));
            }
            value_count += values.len();
            filters.push(Filter {
                name: name.to_owned(),
                values,
            });
        }
        if value_count > MAX_VALUES {
            let message = format!(
                "The maximum number of filter values specified on a single call is {MAX_VALUES}"
            );
            return Err(ApiError::new("FilterLimitExceeded", message));
        }
        Ok(Filters(filters))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a filter of this name is among them.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|filter| filter.name == name)
    }

    /// Whether a resource passes all filters.
    ///
    /// `tags` are the resource's. `field` is asked for the other names: it tries
    /// each value that the resource has under that name on the test that it is
    /// given, and returns whether one passed.
    pub fn match_resource<'t, T>(
        &self,
        tags: impl Fn() -> T,
        field: impl Fn(&str, &dyn Fn(&str) -> bool) -> bool,
    ) -> bool
    where
        T: Iterator<Item = (&'t str, &'t str)>,
    {
        self.0.iter().all(|filter| {
            let test = |text: &str| filter.values.iter().any(|value| value.matches(text));
            match filter.name.as_str() {
                "tag-key" => tags().any(|(key, _)| test(key)),
                "tag-value" => tags().any(|(_, value)| test(value)),
                name => match name.strip_prefix("tag:") {
                    Some(wanted) => tags().any(|(key, value)| key == wanted && test(value)),
                    None => field(name, &test),
                },
            }
        })
    }

    /// [`Filters::match_resource`] for a resource whose tags are a map.
    pub fn matches<K: AsRef<str>, V: AsRef<str>>(
        &self,
        tags: &BTreeMap<K, V>,
        field: impl Fn(&str, &dyn Fn(&str) -> bool) -> bool,
    ) -> bool {
        self.match_resource(
            || {
                tags.iter()
                    .map(|(key, value)| (key.as_ref(), value.as_ref()))
            },
            field,
        )
    }
}

fn missing(number: usize, part: &str) -> ApiError {
    ApiError::missing_parameter(format!("Filter.{number}.{part}"))
}

impl Pattern {
    pub fn new(text: &str) -> Pattern {
        let mut tokens = Vec::with_capacity(text.len());
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                '*' if tokens.last() == Some(&Token::AnyText) => continue,
                '*' => Token::AnyText,
                '?' => Token::AnyOne,
                '\\' => Token::Is(characters.next().unwrap_or('\\')),
                other => Token::Is(other),
            });
        }
        Pattern(tokens)
    }

    /// Whether the whole text fits. Takes at most the product of both lengths.
    pub fn matches(&self, text: &str) -> bool {
        let tokens = &self.0;
        let mut rest = text.chars();
        let mut at = 0;
        // Where to go on when the text after the last `*` doesn't fit: that much
        // further in the text.
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let before = rest.clone();
            match (tokens.get(at), rest.next()) {
                (None, None) => return true,
                (Some(Token::AnyText), _) => {
                    at += 1;
                    rest = before.clone();
                    retry = Some((at, before));
                }
                (Some(Token::Is(wanted)), Some(character)) if *wanted == character => at += 1,
                (Some(Token::AnyOne), Some(_)) => at += 1,
                _ => {
                    let Some((after_star, from)) = &mut retry else {
                        return false;
                    };
                    if from.next().is_none() {
                        return false;
                    }
                    at = *after_star;
                    rest = from.clone();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::ec2;
    use crate::{decode, form};

    fn filters(query: &str) -> Result<Filters, ApiError> {
        let operation = ec2::SERVICE
            .operation("DescribeInstances")
            .expect("AWS has it");
        let request = decode(
            operation,
            &form::parse(query.as_bytes()).expect("well formed"),
        )
        .expect("valid");
        Filters::of(&request, &["instance-id", "group-id"], true)
    }

    fn passes(query: &str) -> bool {
        let tags = BTreeMap::from([("Name", "web-1"), ("Owner", "Ann")]);
        filters(query)
            .expect(query)
            .matches(&tags, |name, test| match name {
                "instance-id" => test("i-1"),
                "group-id" => ["sg-1", "sg-2"].into_iter().any(test),
                _ => false,
            })
    }

    #[test]
    fn values_are_alternatives_and_filters_all_hold() {
        assert!(passes(""));
        assert!(passes(
            "Filter.1.Name=instance-id&Filter.1.Value.1=x&Filter.1.Value.2=i-1"
        ));
        assert!(passes(
            "Filter.1.Name=group-id&Filter.1.Value.1=sg-2&Filter.2.Name=instance-id&Filter.2.Value.1=i-*"
        ));
        assert!(!passes(
            "Filter.1.Name=group-id&Filter.1.Value.1=sg-2&Filter.2.Name=instance-id&Filter.2.Value.1=j"
        ));
        assert!(!passes("Filter.1.Name=instance-id&Filter.1.Value.1=I-1"));
    }

    #[test]
    fn tags_are_filtered_by_key_and_value() {
        assert!(passes("Filter.1.Name=tag:Name&Filter.1.Value.1=web-?"));
        assert!(!passes("Filter.1.Name=tag:name&Filter.1.Value.1=web-?"));
        assert!(!passes("Filter.1.Name=tag:Owner&Filter.1.Value.1=web-?"));
        assert!(passes("Filter.1.Name=tag-key&Filter.1.Value.1=Own*"));
        assert!(passes("Filter.1.Name=tag-value&Filter.1.Value.1=Ann"));
        assert!(!passes("Filter.1.Name=tag-key&Filter.1.Value.1=Ann"));
    }

    #[test]
    fn wrong_filters_are_refused() {
        let refusal = |query: &str| {
            let error = filters(query).expect_err(query);
            (error.code.into_owned(), error.message)
        };
        assert_eq!(
            refusal("Filter.1.Name=colour&Filter.1.Value.1=red"),
            (
                "InvalidParameterValue".to_owned(),
                "The filter 'colour' is invalid".to_owned()
            )
        );
        assert_eq!(refusal("Filter.1.Value.1=red").0, "MissingParameter");
        assert_eq!(refusal("Filter.1.Name=instance-id").0, "MissingParameter");
        let many: String = (1..=201)
            .map(|n| format!("&Filter.1.Value.{n}=i-{n}"))
            .collect();
        assert_eq!(
            refusal(&format!("Filter.1.Name=instance-id{many}")).0,
            "FilterLimitExceeded"
        );
    }

    #[test]
    fn wildcards_match_as_documented() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "anything", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?", "é", true),
            ("?", "", false),
            ("a?c", "abc", true),
            (r"\*amazon\?\\", r"*amazon?\", true),
            (r"\*amazon\?\\", r"xamazon?\", false),
            (r"end\", r"end\", true),
            ("*.txt", "a.txt.txt", true),
            ("Web", "web", false),
        ] {
            assert_eq!(
                Pattern::new(pattern).matches(text),
                fits,
                "{pattern} {text}"
            );
        }
    }

    /// The same by definition, exponentially slow.
    fn fits(pattern: &[Token], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((Token::AnyText, rest)) => (0..=text.len()).any(|skip| fits(rest, &text[skip..])),
            Some((Token::AnyOne, rest)) => !text.is_empty() && fits(rest, &text[1..]),
            Some((Token::Is(wanted), rest)) => {
                text.first() == Some(wanted) && fits(rest, &text[1..])
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in r"[ab*?\\]{0,8}", text in "[ab*]{0,8}") {
            let pattern = Pattern::new(&pattern);
            let characters: Vec<char> = text.chars().collect();
            proptest::prop_assert_eq!(pattern.matches(&text), fits(&pattern.0, &characters));
        }
    }
}
