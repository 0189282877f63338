//! What a query asks of a bucket or an object. s3s takes a request whose query it doesn't know for the
//! plain one: a request to delete a bucket's configuration would delete the bucket. So what it would not
//! route is refused before (the operations of S3's API reference, by their request syntax).

use crate::details;
use crate::error::not_allowed;
use crate::signed::Query;
use http::Method;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

/// A name in a query that makes a request another one than without it.
struct Subresource {
    name: &'static str,
    /// The methods by which s3s routes it, of a bucket and of an object. None: AWS has it, and s3s doesn't.
    of_bucket: &'static str,
    of_object: &'static str,
    /// Whether signatures of version 2 cover it (AWS, "Signing and authenticating REST requests").
    signed_by_2: bool,
}

const fn row(
    name: &'static str,
    of_bucket: &'static str,
    of_object: &'static str,
    signed_by_2: bool,
) -> Subresource {
    Subresource {
        name,
        of_bucket,
        of_object,
        signed_by_2,
    }
}

const ALL: &[Subresource] = &[
    row("abac", "", "", false),
    row("accelerate", "GET PUT", "", false),
    row("acl", "GET PUT", "GET PUT", true),
    row("analytics", "GET PUT DELETE", "", false),
    row("annotation", "", "", false),
    row("attributes", "", "GET", false),
    row("cors", "GET PUT DELETE", "", true),
    row("delete", "POST", "", true),
    row("encryption", "GET PUT DELETE", "", false),
    row("intelligent-tiering", "GET PUT DELETE", "", false),
    row("inventory", "GET PUT DELETE", "", false),
    row("legal-hold", "", "GET PUT", false),
    row("lifecycle", "GET PUT DELETE", "", true),
    row("location", "GET", "", true),
    row("logging", "GET PUT", "", true),
    row("metadataConfiguration", "", "", false),
    row("metadataInventoryTable", "", "", false),
    row("metadataJournalTable", "", "", false),
    row("metadataTable", "GET POST DELETE", "", false),
    row("metrics", "GET PUT DELETE", "", false),
    row("notification", "GET PUT", "", true),
    row("object-lock", "GET PUT", "", true),
    row("ownershipControls", "GET PUT DELETE", "", false),
    row("partNumber", "", "GET HEAD PUT", true),
    row("policy", "GET PUT DELETE", "", true),
    row("policyStatus", "GET", "", false),
    row("publicAccessBlock", "GET PUT DELETE", "", false),
    row("renameObject", "", "", false),
    row("replication", "GET PUT DELETE", "", true),
    row("requestPayment", "GET PUT", "", true),
    row("restore", "", "POST", false),
    row("retention", "", "GET PUT", false),
    row("select", "", "POST", false),
    row("session", "GET", "", false),
    row("tagging", "GET PUT DELETE", "GET PUT DELETE", true),
    row("torrent", "", "GET", true),
    row("uploadId", "", "GET PUT POST DELETE", true),
    row("uploads", "GET", "POST", true),
    row("versionId", "", "GET HEAD PUT POST DELETE", true),
    row("versioning", "GET PUT", "", true),
    row("versions", "GET", "", true),
    row("website", "GET PUT DELETE", "", true),
];

impl Subresource {
    fn is_routed(&self, method: &Method, has_key: bool) -> bool {
        let methods = match has_key {
            true => self.of_object,
            false => self.of_bucket,
        };
        methods.split(' ').any(|one| one == method.as_str())
    }

    /// Whether AWS has it of such a thing, and nothing here has.
    fn is_missing(&self, has_key: bool) -> bool {
        let nowhere = self.of_bucket.is_empty() && self.of_object.is_empty();
        // Of an object it is UpdateObjectEncryption's.
        nowhere || (self.name == "encryption" && has_key)
    }
}

/// Whether signatures of version 2 cover a pair of this name.
pub fn is_signed_by_2(name: &str) -> bool {
    let of_answers = [
        "response-cache-control",
        "response-content-disposition",
        "response-content-encoding",
        "response-content-language",
        "response-content-type",
        "response-expires",
    ];
    let mut signed = ALL.iter().filter(|row| row.signed_by_2);
    signed.any(|row| row.name == name) || of_answers.contains(&name)
}

/// What counts is a number.
fn check_numbers(query: &Query) -> S3Result<()> {
    /// With what AWS calls them where they may not be negative.
    const NUMBERS: [(&str, Option<&str>); 6] = [
        ("max-buckets", None),
        ("max-keys", Some("maxKeys")),
        ("max-parts", Some("maxParts")),
        ("max-uploads", Some("maxUploads")),
        ("part-number-marker", None),
        ("partNumber", None),
    ];
    for (name, counts) in NUMBERS {
        let Some(text) = query.get(name) else {
            continue;
        };
        let (called, why) = match (text.parse::<i32>(), counts) {
            (Err(_), _) => (
                name,
                format!("Provided {name} not an integer or within integer range"),
            ),
            (Ok(..0), Some(called)) => (
                called,
                format!("Argument {called} must be an integer between 0 and 2147483647"),
            ),
            (Ok(_), _) => continue,
        };
        let error = S3Error::with_message(S3ErrorCode::InvalidArgument, why);
        let error = details::with(error, "ArgumentName", called);
        return Err(details::with(error, "ArgumentValue", text));
    }
    Ok(())
}

/// Refuses what would be taken for another request.
pub fn check(method: &Method, has_key: bool, query: &Query) -> S3Result<()> {
    let names = || query.pairs().iter().map(|(name, _)| name.as_str());
    if method == Method::OPTIONS {
        return Ok(());
    }
    check_numbers(query)?;
    let mut asked = names().filter_map(|name| ALL.iter().find(|row| row.name == name));
    if let Some(row) = asked.find(|row| !row.is_routed(method, has_key)) {
        return Err(match row.is_missing(has_key) {
            true => s3_error!(
                NotImplemented,
                "A header or query you provided implies functionality that is not implemented."
            ),
            false => not_allowed(),
        });
    }
    // Of an object without any there is nothing to POST, and nothing at all to PATCH.
    let plain = !names().any(|name| ALL.iter().any(|row| row.name == name));
    if method == Method::PATCH || (method == Method::POST && has_key && plain) {
        return Err(not_allowed());
    }
    if method == Method::PUT && has_key {
        let configures =
            names().any(|name| ["acl", "legal-hold", "retention", "tagging"].contains(&name));
        if query.has("versionId") && !configures {
            return Err(s3_error!(
                InvalidArgument,
                "This operation does not accept a version-id."
            ));
        }
        if query.has("uploadId") != query.has("partNumber") {
            return Err(s3_error!(
                InvalidArgument,
                "A part is uploaded with both a part number and an upload id."
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers() {
        let why = |text: &str| {
            let outcome = check(&Method::GET, false, &Query::of(text).expect("well formed"));
            outcome
                .err()
                .map(|error| error.message().unwrap_or_default().to_owned())
        };
        assert_eq!(why("max-keys=0&max-uploads=7"), None);
        for text in ["max-keys=blah", "max-keys=2147483648", "max-keys="] {
            let said = "Provided max-keys not an integer or within integer range";
            assert_eq!(why(text).as_deref(), Some(said), "{text}");
        }
        let said = "Argument maxKeys must be an integer between 0 and 2147483647";
        assert_eq!(why("max-keys=-1").as_deref(), Some(said));
    }

    fn answer(method: Method, has_key: bool, query: &str) -> String {
        let query = Query::of(query).expect("well formed");
        match check(&method, has_key, &query) {
            Ok(()) => "fine".into(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    #[test]
    fn no_query_makes_a_request_the_plain_one() {
        for (method, has_key, query, found) in [
            (
                Method::DELETE,
                false,
                "metadataConfiguration",
                "NotImplemented",
            ),
            (Method::DELETE, false, "acl", "MethodNotAllowed"),
            (Method::DELETE, false, "versioning", "MethodNotAllowed"),
            (Method::DELETE, false, "logging", "MethodNotAllowed"),
            (Method::DELETE, false, "tagging", "fine"),
            (Method::PUT, true, "encryption", "NotImplemented"),
            (Method::PUT, false, "encryption", "fine"),
            (Method::PUT, true, "renameObject", "NotImplemented"),
            (Method::DELETE, true, "legal-hold", "MethodNotAllowed"),
            (Method::PUT, true, "versionId=x", "InvalidArgument"),
            (Method::PUT, true, "tagging&versionId=x", "fine"),
            (Method::PUT, true, "partNumber=3", "InvalidArgument"),
            (Method::PUT, true, "uploadId=3", "InvalidArgument"),
            (Method::PUT, true, "partNumber=3&uploadId=x", "fine"),
            (Method::GET, false, "abac", "NotImplemented"),
            (Method::GET, false, "list-type=2&prefix=acl", "fine"),
            (
                Method::GET,
                true,
                "x-id=GetObject&response-expires=x",
                "fine",
            ),
            (Method::PUT, true, "x-id=PutObject", "fine"),
            (Method::POST, false, "delete", "fine"),
            (Method::GET, true, "uploads", "MethodNotAllowed"),
            (Method::OPTIONS, true, "uploads", "fine"),
        ] {
            assert_eq!(answer(method, has_key, query), found, "{query}");
        }
    }
}
