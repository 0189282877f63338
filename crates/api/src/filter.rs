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
pub enum Pattern {
    Exactly(String),
    Like(Glob),
    /// Longer than anything that it is held against.
    Never,
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

    /// The values of a filter that have no wildcards.
    pub fn exact(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |filter| filter.name == name);
        named
            .flat_map(|filter| &filter.values)
            .filter_map(|value| match value {
                Pattern::Exactly(text) => Some(text.as_str()),
                Pattern::Like(_) | Pattern::Never => None,
            })
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

/// More characters, wildcards of any text not counted, than any name, tag or description has.
const LONGEST: usize = 512;

impl Pattern {
    pub fn new(text: &str) -> Pattern {
        let mut glob = Glob::default();
        let mut exact = String::with_capacity(text.len());
        let mut is_exact = true;
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            is_exact &= !matches!(character, '*' | '?');
            match character {
                '*' => glob.any_text(),
                '?' => glob.one(None),
                other => {
                    let literal = match other {
                        '\\' => characters.next().unwrap_or('\\'),
                        other => other,
                    };
                    exact.push(literal);
                    glob.one(Some(literal));
                }
            }
            if glob.length > LONGEST {
                return Pattern::Never;
            }
        }
        match is_exact {
            true => Pattern::Exactly(exact),
            false => Pattern::Like(glob),
        }
    }

    /// Whether the whole text fits.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exactly(wanted) => wanted == text,
            Pattern::Like(glob) => glob.matches(text),
            Pattern::Never => false,
        }
    }
}

/// A pattern with wildcards as an automaton whose states are bits: state `n` means that its first `n`
/// single characters have fitted. A character of text costs a few instructions per 64 states whatever
/// the pattern, so that no request keeps a processor busy (Navarro and Raffinot, "Flexible Pattern
/// Matching in Strings", 4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glob {
    /// How many single characters it has.
    length: usize,
    /// States in which any text may come.
    stays: Bits,
    /// States that any character leads on from.
    any: Bits,
    /// States that a character leads on from, `any` left out.
    by: BTreeMap<char, Bits>,
}

impl Glob {
    fn any_text(&mut self) {
        self.stays.set(self.length);
    }

    fn one(&mut self, character: Option<char>) {
        let bits = match character {
            None => &mut self.any,
            Some(character) => self.by.entry(character).or_default(),
        };
        bits.set(self.length);
        self.length += 1;
    }

    fn matches(&self, text: &str) -> bool {
        // The state of the end needs a bit, too.
        let mut states = vec![0u64; self.length / 64 + 1];
        states[0] = 1;
        for character in text.chars() {
            let by = self.by.get(&character);
            let (mut carried, mut alive) = (0, 0);
            for (place, states) in states.iter_mut().enumerate() {
                let leads = self.any.word(place) | by.map_or(0, |bits| bits.word(place));
                let goes = *states & leads;
                *states = (*states & self.stays.word(place)) | (goes << 1) | carried;
                carried = goes >> 63;
                alive |= *states;
            }
            if alive == 0 {
                return false;
            }
        }
        states[self.length / 64] >> (self.length % 64) & 1 == 1
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, bit: usize) {
        if self.0.len() <= bit / 64 {
            self.0.resize(bit / 64 + 1, 0);
        }
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn word(&self, place: usize) -> u64 {
        self.0.get(place).copied().unwrap_or(0)
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

    #[test]
    fn long_patterns_and_texts_fit_too() {
        for length in [63, 64, 65, 127, 128, 200, 512] {
            let text = "ab".repeat(length / 2) + if length % 2 == 1 { "a" } else { "" };
            let one_less = &text[..length - 1];
            for pattern in [
                text.clone(),
                format!("{one_less}?"),
                format!("*{text}*"),
                "?".repeat(length),
                format!("{one_less}*"),
            ] {
                let pattern = Pattern::new(&pattern);
                assert!(pattern.matches(&text), "{length} {pattern:?}");
                assert!(
                    !pattern.matches(&text[..length - 2]),
                    "{length} {pattern:?}"
                );
            }
        }
        assert_eq!(
            Pattern::new(&format!("{}*", "?".repeat(513))),
            Pattern::Never
        );
    }

    /// A pattern that nearly fits everywhere must not cost the product of both lengths.
    #[test]
    fn hostile_patterns_are_quick() {
        let text = "a".repeat(256);
        let patterns = [
            format!("*{}b", "a".repeat(127)),
            format!("*{}b", "?a".repeat(63)),
        ];
        let begun = std::time::Instant::now();
        for pattern in patterns.map(|pattern| Pattern::new(&pattern)) {
            for _ in 0..10_000 {
                assert!(!pattern.matches(&text));
            }
        }
        // About 0.1 s with optimizations off; the product of both would be ten times that.
        assert!(begun.elapsed().as_secs() < 5);
    }

    /// The same by definition, exponentially slow.
    fn fits(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|skip| fits(rest, &text[skip..])),
            ['?', rest @ ..] => !text.is_empty() && fits(rest, &text[1..]),
            ['\\', wanted, rest @ ..] | [wanted, rest @ ..] => {
                text.first() == Some(wanted) && fits(rest, &text[1..])
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in r"[ab*?\\]{0,8}", text in "[ab*]{0,8}") {
            let characters = |text: &str| text.chars().collect::<Vec<_>>();
            let fits = fits(&characters(&pattern), &characters(&text));
            proptest::prop_assert_eq!(Pattern::new(&pattern).matches(&text), fits);
        }
    }
}
