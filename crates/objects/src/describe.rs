//! What an object is besides its bytes, between S3's shapes and the rows: headers, metadata, storage
//! class, checksums.

use crate::beyond;
use crate::conditions::time;
use crate::error::custom;
use crate::rows::About;
use crate::sum::{Algorithm, Covers, Sum};
use crate::tagging::tags_of_header;
use http::{Extensions, StatusCode};
use s3s::dto::*;
use s3s::{S3Result, s3_error};
use std::collections::BTreeMap;

/// Bytes of names and values of user metadata together.
const METADATA_BYTES: usize = 2048;
/// What the SDKs say of the transfer among an object's encodings.
const CHUNKED: &str = "aws-chunked";

/// Storage classes that mean nothing here but their name. Those of archives would need a restore.
const CLASSES: [&str; 6] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
];

/// Headers of HTTP that an object keeps, as the operations' inputs have them.
pub struct Described {
    pub cache_control: Option<String>,
    pub content_disposition: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_type: Option<String>,
    pub expires: Option<Timestamp>,
    pub website_redirect_location: Option<String>,
    pub metadata: Option<Metadata>,
    pub storage_class: Option<StorageClass>,
    pub tagging: Option<String>,
}

/// Takes those members of an input.
macro_rules! described {
    ($input:expr) => {
        $crate::describe::Described {
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take(),
            expires: $input.expires.take(),
            website_redirect_location: $input.website_redirect_location.take(),
            metadata: $input.metadata.take(),
            storage_class: $input.storage_class.take(),
            tagging: $input.tagging.take(),
        }
    };
}

fn check_redirect(to: &str) -> S3Result<()> {
    let starts = ["/", "http://", "https://"];
    match starts.iter().any(|start| to.starts_with(start)) {
        true => Ok(()),
        false => Err(custom(
            "InvalidRedirectLocation",
            StatusCode::BAD_REQUEST,
            "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
        )),
    }
}

impl Described {
    /// The object's description; the request's extensions have what its headers said beyond ASCII.
    pub fn about(self, extensions: &Extensions) -> S3Result<About> {
        let mut headers = BTreeMap::new();
        // What the SDKs say of the transfer is none of the object's.
        let encoding = self.content_encoding.map(|value| {
            let parts = || value.split(',').map(str::trim);
            if !parts().any(|one| one == CHUNKED) {
                return value;
            }
            let kept: Vec<_> = parts().filter(|one| *one != CHUNKED).collect();
            kept.join(",")
        });
        self.website_redirect_location
            .as_deref()
            .map_or(Ok(()), check_redirect)?;
        let expires = self.expires.map(|expires| http_date(&expires));
        for (name, value) in [
            ("cache-control", self.cache_control),
            ("content-disposition", self.content_disposition),
            (
                "content-encoding",
                encoding.filter(|value| !value.is_empty()),
            ),
            ("content-language", self.content_language),
            ("content-type", self.content_type),
            ("expires", expires),
            ("location", self.website_redirect_location),
        ] {
            if let Some(value) = value {
                headers.insert(name.to_owned(), value);
            }
        }
        let metadata: BTreeMap<String, String> =
            self.metadata.unwrap_or_default().into_iter().collect();
        let bytes: usize = metadata
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if bytes > METADATA_BYTES {
            return Err(s3_error!(
                MetadataTooLarge,
                "Your metadata headers exceed the maximum allowed metadata size"
            ));
        }
        let class = self.storage_class.map(|class| class.as_str().to_owned());
        if let Some(class) = &class
            && !CLASSES.contains(&class.as_str())
        {
            let message = match class.as_str() {
                "GLACIER" | "DEEP_ARCHIVE" => {
                    "The storage class you specified is not valid: there is no archive here"
                }
                _ => "The storage class you specified is not valid",
            };
            return Err(s3_error!(InvalidStorageClass, "{message}"));
        }
        beyond::restore(extensions, &mut headers);
        Ok(About {
            headers,
            metadata,
            tags: tags_of_header(self.tagging.as_deref())?,
            class: class.filter(|class| class != StorageClass::STANDARD),
            ..About::default()
        })
    }
}

pub fn http_date(timestamp: &Timestamp) -> String {
    let mut text = Vec::new();
    let _ = timestamp.format(TimestampFormat::HttpDate, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

pub fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

/// Of milliseconds since 1970.
pub fn stamp(ms: i64) -> Timestamp {
    Timestamp::from(time(ms))
}

/// When something was made, as S3 tells it: in whole seconds everywhere, as HTTP's dates have no more, and
/// clients compare the two.
pub fn second(ms: i64) -> Timestamp {
    stamp(ms / 1000 * 1000)
}

/// In milliseconds since 1970.
pub fn millis(timestamp: &Timestamp) -> i64 {
    let time = time::OffsetDateTime::from(timestamp.clone());
    (time.unix_timestamp_nanos() / 1_000_000) as i64
}

/// A checksum among the five members that the outputs have for it.
#[derive(Default)]
pub struct Sums {
    pub crc32: Option<String>,
    pub crc32c: Option<String>,
    pub crc64nvme: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
    pub kind: Option<ChecksumType>,
}

impl Sums {
    pub fn of(sum: Option<&Sum>) -> Self {
        let mut sums = Self::default();
        let Some(sum) = sum else {
            return sums;
        };
        let value = Some(sum.value.clone());
        match sum.algorithm {
            Algorithm::Crc32 => sums.crc32 = value,
            Algorithm::Crc32c => sums.crc32c = value,
            Algorithm::Crc64Nvme => sums.crc64nvme = value,
            Algorithm::Sha1 => sums.sha1 = value,
            Algorithm::Sha256 => sums.sha256 = value,
        }
        sums.kind = Some(covers(sum.covers));
        sums
    }
}

pub fn covers(covers: Covers) -> ChecksumType {
    ChecksumType::from_static(match covers {
        Covers::FullObject => ChecksumType::FULL_OBJECT,
        Covers::Composite => ChecksumType::COMPOSITE,
    })
}

/// Fills an output's checksum members.
macro_rules! with_sums {
    ($output:expr, $sum:expr) => {{
        let sums = $crate::describe::Sums::of($sum);
        $output.checksum_crc32 = sums.crc32;
        $output.checksum_crc32c = sums.crc32c;
        $output.checksum_crc64nvme = sums.crc64nvme;
        $output.checksum_sha1 = sums.sha1;
        $output.checksum_sha256 = sums.sha256;
        sums.kind
    }};
}

pub fn headers(about: &About, mut set: impl FnMut(&str, String)) {
    // What AWS gives an object that came without.
    if !about.headers.contains_key("content-type") {
        set("content-type", "binary/octet-stream".into());
    }
    for (name, value) in &about.headers {
        set(name, value.clone());
    }
}

pub(crate) use {described, with_sums};
