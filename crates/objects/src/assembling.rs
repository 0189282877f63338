//! What the end of a multipart upload makes of its parts (AWS, "CompleteMultipartUpload"). Decided without a
//! store.

use crate::describe::covers;
use crate::details;
use crate::error::{internal, malformed};
use crate::multipart::{MOST_PARTS, asked_of, part_number};
use crate::rows::{About, Asked, Part, PartOf, Put, Upload};
use crate::sum::{Algorithm, Covers, Sum};
use crate::upload;
use md5::{Digest, Md5};
use s3s::dto::{CompletedPart, ETag};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use std::collections::BTreeMap;

/// Every part but the last has at least so many bytes.
const LEAST_PART: u64 = 5 << 20;
/// The largest object: 48.8 TiB, ten thousand parts of 5 GiB.
const LARGEST: u64 = MOST_PARTS as u64 * (5 << 30);

/// A part as CompleteMultipartUpload names it.
pub struct Named {
    pub number: i32,
    pub etag: String,
    sums: Vec<(Algorithm, String)>,
}

impl Named {
    pub fn of(part: CompletedPart) -> S3Result<Self> {
        let number = part_number(part.part_number.ok_or_else(malformed)?)?;
        let sums = [
            (Algorithm::Crc32, part.checksum_crc32),
            (Algorithm::Crc32c, part.checksum_crc32c),
            (Algorithm::Crc64Nvme, part.checksum_crc64nvme),
            (Algorithm::Sha1, part.checksum_sha1),
            (Algorithm::Sha256, part.checksum_sha256),
        ];
        let sums = sums
            .into_iter()
            .filter_map(|(algorithm, value)| Some((algorithm, value?)));
        Ok(Self {
            number,
            etag: part.e_tag.map(ETag::into_value).ok_or_else(malformed)?,
            sums: sums.collect(),
        })
    }

    fn is(&self, part: &Part) -> bool {
        let sum = |(algorithm, value): &(Algorithm, String)| {
            part.sum
                .as_ref()
                .is_some_and(|sum| sum.algorithm == *algorithm && sum.is(value))
        };
        self.number == part.number && self.etag == part.etag && self.sums.iter().all(sum)
    }
}

/// What the client says of the whole object.
pub struct Expected {
    pub size: Option<u64>,
    pub sums: Vec<(Algorithm, String)>,
    pub kind: Option<String>,
}

/// The object of the parts that are named, and the parts that aren't.
pub fn assemble(
    upload: &Upload,
    have: Vec<Part>,
    named: &[Named],
    expected: &Expected,
) -> S3Result<(Put, Vec<Part>)> {
    let invalid = |part: &Named| {
        let error = s3_error!(
            InvalidPart,
            "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."
        );
        let error = details::with(error, "PartNumber", part.number);
        details::with(error, "ETag", &part.etag)
    };
    let (mut used, mut unused) = (Vec::new(), Vec::new());
    let mut wanted = named.iter().peekable();
    for part in have {
        match wanted.next_if(|named| named.number == part.number) {
            Some(named) if named.is(&part) => used.push(part),
            Some(named) => return Err(invalid(named)),
            None => unused.push(part),
        }
    }
    if let Some(named) = wanted.next() {
        return Err(invalid(named));
    }
    let asked = asked_of(upload);
    let lacks = named.iter().find(|part| part.sums.is_empty());
    if let Some(part) = lacks.filter(|_| asked.explicit && asked.covers == Covers::Composite) {
        return Err(S3Error::with_message(
            S3ErrorCode::InvalidRequest,
            format!(
                "The upload was created using a {} checksum. The complete request must include the checksum for each part. It was missing for part {} in the request.",
                asked.algorithm.name().to_lowercase(),
                part.number
            ),
        ));
    }
    let last = used.len() - 1;
    if let Some(part) = used[..last].iter().find(|part| part.size < LEAST_PART) {
        let error = s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size"
        );
        let error = details::with(error, "ProposedSize", part.size);
        let error = details::with(error, "MinSizeAllowed", LEAST_PART);
        let error = details::with(error, "PartNumber", part.number);
        return Err(details::with(error, "ETag", &part.etag));
    }
    let size: u64 = used.iter().map(|part| part.size).sum();
    if size > LARGEST {
        return Err(upload::too_large());
    }
    if expected.size.is_some_and(|said| said != size) {
        return Err(s3_error!(
            InvalidRequest,
            "The provided 'x-amz-mp-object-size' header does not match what was computed."
        ));
    }
    let mut md5 = Md5::new();
    for part in &used {
        md5.update(hex::decode(&part.etag).map_err(internal)?);
    }
    let etag = format!("{}-{}", hex::encode(md5.finalize()), used.len());
    let sums: Option<Vec<(&Sum, u64)>> = used
        .iter()
        .map(|part| Some((part.sum.as_ref()?, part.size)))
        .collect();
    let sum = sums.and_then(|sums| Sum::of_parts(asked.algorithm, asked.covers, &sums));
    expected.verify(asked, sum.as_ref())?;
    let parts = used.iter().map(|part| PartOf {
        number: part.number,
        size: part.size,
        sum: part.sum.clone().filter(|_| asked.explicit),
    });
    let about = About {
        sum,
        parts: parts.collect(),
        asked: None,
        by: None,
        said: BTreeMap::new(),
        ..upload.about.clone()
    };
    let slices = used
        .iter()
        .flat_map(|part| part.slices.iter().copied())
        .collect();
    Ok((
        Put {
            size,
            etag,
            about,
            slices,
        },
        unused,
    ))
}

impl Expected {
    fn verify(&self, asked: Asked, sum: Option<&Sum>) -> S3Result<()> {
        let kind = self.kind.as_deref();
        let other = kind.is_some_and(|kind| kind != covers(asked.covers).as_str());
        if other {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using another checksum type. The complete request must use the same checksum type."
            ));
        }
        for (algorithm, value) in &self.sums {
            if !sum.is_some_and(|sum| sum.algorithm == *algorithm && sum.is(value)) {
                return Err(S3Error::with_message(
                    S3ErrorCode::BadDigest,
                    format!(
                        "The {} you specified did not match the calculated checksum.",
                        algorithm.name()
                    ),
                ));
            }
        }
        Ok(())
    }
}
