//! What a query asks of a bucket or an object. s3s takes a request whose query it doesn't know for the
//! plain one: a request to delete a bucket's configuration would delete the bucket. So what it would not
//! route is refused before (the operations of S3's API reference, by their request syntax).

use crate::error::not_allowed;
use crate::signed::Query;
use http::Method;
use s3s::{S3Result, s3_error};

/// What the names of a query are about: those that make a request another one than without them.
const ALL: &[&str] = &[
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "annotation",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "partNumber",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "renameObject",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "session",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// Those that AWS has and s3s doesn't know.
const NOT_HERE: &[&str] = &[
    "abac",
    "annotation",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "renameObject",
];

/// A bucket's configurations that can be read, written and deleted.
const CONFIGURATIONS: &[&str] = &[
    "analytics",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "lifecycle",
    "metrics",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "tagging",
    "website",
];

/// Those that can be read and written.
const SETTINGS: &[&str] = &[
    "accelerate",
    "acl",
    "logging",
    "notification",
    "object-lock",
    "requestPayment",
    "versioning",
];

/// What s3s routes by a name in the query.
fn is_routed(method: &Method, has_key: bool, name: &str) -> bool {
    let among = |names: &[&str]| names.contains(&name);
    match (method.as_str(), has_key) {
        ("GET", false) => {
            among(CONFIGURATIONS)
                || among(SETTINGS)
                || among(&["location", "metadataTable", "policyStatus"])
                || among(&["session", "uploads", "versions"])
        }
        ("PUT", false) => among(CONFIGURATIONS) || among(SETTINGS),
        ("DELETE", false) => among(CONFIGURATIONS) || name == "metadataTable",
        ("POST", false) => among(&["delete", "metadataTable"]),
        ("GET", true) => {
            among(&["acl", "attributes", "legal-hold", "partNumber", "retention"])
                || among(&["tagging", "torrent", "uploadId", "versionId"])
        }
        ("HEAD", true) => among(&["partNumber", "versionId"]),
        ("PUT", true) => {
            among(&["acl", "legal-hold", "partNumber", "retention"])
                || among(&["tagging", "uploadId", "versionId"])
        }
        ("DELETE", true) => among(&["tagging", "uploadId", "versionId"]),
        ("POST", true) => among(&["restore", "select", "uploadId", "uploads", "versionId"]),
        _ => false,
    }
}

/// Refuses what would be taken for another request.
pub fn check(method: &Method, has_key: bool, query: &Query) -> S3Result<()> {
    let names = || query.pairs().iter().map(|(name, _)| name.as_str());
    if method == Method::OPTIONS {
        return Ok(());
    }
    let strange = names().find(|name| ALL.contains(name) && !is_routed(method, has_key, name));
    if let Some(name) = strange {
        let not_here = NOT_HERE.contains(&name) || (name == "encryption" && has_key);
        return Err(match not_here {
            true => s3_error!(
                NotImplemented,
                "A header or query you provided implies functionality that is not implemented."
            ),
            false => not_allowed(),
        });
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
