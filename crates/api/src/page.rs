//! Pages: `MaxResults` and `NextToken`.
//!
//! A token names the last item of the page before it, so that a list can change
//! between pages without one item being lost or repeated. It is sealed for the
//! operation and the account, so that it can't be made up or carried over.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::error::ApiError;
use crate::value::Struct;

/// Bytes of the seal in a token.
const SEAL_BYTES: usize = 16;

/// Which operation of whose account is paged, and the key that seals its tokens.
#[derive(Clone, Copy)]
pub struct Paged<'a> {
    /// A secret of the cloud, at least 16 random bytes.
    pub key: &'a [u8],
    pub operation: &'a str,
    pub account: &'a str,
    /// What `MaxResults` may be: 5 to 1000 for most operations.
    pub min: i64,
    pub max: i64,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The most items of the page; without it the list is whole.
    pub limit: Option<usize>,
    /// The last item of the page before.
    pub after: Option<String>,
}

impl<'a> Paged<'a> {
    /// An operation with EC2's usual bounds.
    pub fn new(key: &'a [u8], operation: &'a str, account: &'a str) -> Paged<'a> {
        Paged {
            key,
            operation,
            account,
            min: 5,
            max: 1000,
        }
    }

    /// The page that a request asks for.
    ///
    /// # Errors
    /// `InvalidParameterValue` for a `MaxResults` out of bounds, `InvalidNextToken`.
    pub fn page(&self, request: &Struct) -> Result<Page, ApiError> {
        let limit = match request.int("MaxResults") {
            None => None,
            Some(limit) if limit < self.min => {
                return Err(self.out_of_bounds(limit, "greater than", self.min));
            }
            Some(limit) if limit > self.max => {
                return Err(self.out_of_bounds(limit, "smaller than or equal to", self.max));
            }
            Some(limit) => usize::try_from(limit).ok(),
        };
        let after = match request.str("NextToken") {
            None | Some("") => None,
            Some(token) => Some(self.open(token).ok_or_else(invalid_token)?),
        };
        Ok(Page { limit, after })
    }

    /// The token of the page after the item with this id.
    pub fn token(&self, last: &str) -> String {
        let mut token = self.seal(last).to_vec();
        token.extend_from_slice(last.as_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Cuts a page out of items sorted by id; also returns the next page's token.
    pub fn cut<T>(
        &self,
        page: &Page,
        items: impl IntoIterator<Item = T>,
        id: impl Fn(&T) -> &str,
    ) -> (Vec<T>, Option<String>) {
        let mut rest = items
            .into_iter()
            .filter(|item| page.after.as_deref().is_none_or(|after| id(item) > after));
        let Some(limit) = page.limit else {
            return (rest.collect(), None);
        };
        let items: Vec<T> = rest.by_ref().take(limit).collect();
        let token = rest
            .next()
            .and_then(|_| items.last().map(|last| self.token(id(last))));
        (items, token)
    }

    /// The id in a token, if the seal is right.
    fn open(&self, token: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (seal, last) = bytes.split_at_checked(SEAL_BYTES)?;
        let last = std::str::from_utf8(last).ok()?;
        bool::from(seal.ct_eq(&self.seal(last))).then(|| last.to_owned())
    }

    fn seal(&self, last: &str) -> [u8; SEAL_BYTES] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.key).expect("HMAC takes keys of any length");
        for part in [self.operation, self.account, last] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        let mut seal = [0; SEAL_BYTES];
        seal.copy_from_slice(&mac.finalize().into_bytes()[..SEAL_BYTES]);
        seal
    }

    fn out_of_bounds(&self, value: i64, relation: &str, bound: i64) -> ApiError {
        let message = format!(
            "Value ( {value} ) for parameter maxResults is invalid. Expecting a value {relation} {bound}."
        );
        ApiError::invalid_parameter_value(message)
    }
}

fn invalid_token() -> ApiError {
    ApiError::new("InvalidNextToken", "The specified NextToken is not valid.")
}

/// Refuses `MaxResults` together with ids: `set` is EC2's name of the list of
/// ids (`instancesSet`), `ids` the member (`InstanceIds`).
///
/// # Errors
/// `InvalidParameterCombination`.
pub fn refuse_ids_with_max_results(request: &Struct, ids: &str, set: &str) -> Result<(), ApiError> {
    if request.int("MaxResults").is_some() && !request.list(ids).is_empty() {
        let message = format!("The parameter {set} cannot be used with the parameter maxResults");
        return Err(ApiError::invalid_combination(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::ec2;
    use crate::{decode, form};

    const PAGED: Paged<'static> = Paged {
        key: b"0123456789abcdef",
        operation: "DescribeInstances",
        account: "123456789012",
        min: 5,
        max: 1000,
    };

    fn request(query: &str) -> Struct {
        let operation = ec2::SERVICE
            .operation("DescribeInstances")
            .expect("AWS has it");
        decode(
            operation,
            &form::parse(query.as_bytes()).expect("well formed"),
        )
        .expect("valid")
    }

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let items: Vec<String> = (0..12).map(|number| format!("i-{number:02}")).collect();
        let (mut seen, mut token) = (Vec::new(), String::new());
        let mut pages = 0;
        loop {
            let page = PAGED
                .page(&request(&format!("MaxResults=5&NextToken={token}")))
                .expect("valid");
            let (part, next) = PAGED.cut(&page, &items, |item| item.as_str());
            assert!(part.len() <= 5);
            seen.extend(part.into_iter().cloned());
            pages += 1;
            match next {
                Some(next) => token = next,
                None => break,
            }
        }
        assert_eq!((seen, pages), (items, 3));
    }

    #[test]
    fn a_list_without_bounds_is_whole() {
        let page = PAGED.page(&request("")).expect("valid");
        assert_eq!(
            page,
            Page {
                limit: None,
                after: None
            }
        );
        assert_eq!(
            PAGED.cut(&page, ["a", "b"], |item| item),
            (vec!["a", "b"], None)
        );
    }

    #[test]
    fn bounds_tokens_and_ids_are_checked() {
        let refusal = |query: &str| {
            let error = PAGED.page(&request(query)).expect_err(query);
            (error.code.into_owned(), error.message)
        };
        assert_eq!(
            refusal("MaxResults=4"),
            (
                "InvalidParameterValue".to_owned(),
                "Value ( 4 ) for parameter maxResults is invalid. Expecting a value greater than 5.".to_owned()
            )
        );
        assert_eq!(refusal("MaxResults=1001").0, "InvalidParameterValue");
        assert_eq!(refusal("NextToken=made-up").0, "InvalidNextToken");
        let elsewhere = Paged {
            account: "210987654321",
            ..PAGED
        }
        .token("i-1");
        assert_eq!(
            refusal(&format!("NextToken={elsewhere}")).0,
            "InvalidNextToken"
        );

        let both = request("MaxResults=5&InstanceId.1=i-1");
        let error =
            refuse_ids_with_max_results(&both, "InstanceIds", "instancesSet").expect_err("both");
        assert_eq!(
            error.message,
            "The parameter instancesSet cannot be used with the parameter maxResults"
        );
        for alone in ["MaxResults=5", "InstanceId.1=i-1"] {
            assert!(
                refuse_ids_with_max_results(&request(alone), "InstanceIds", "instancesSet").is_ok()
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_id_survives_its_token(id: String, other: String) {
            let token = PAGED.token(&id);
            proptest::prop_assert_eq!(PAGED.open(&token), Some(id));
            proptest::prop_assert_eq!(PAGED.open(&other), None);
        }
    }
}
