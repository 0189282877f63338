//! Multipart uploads: their parts are contents like any other, and completing one makes an object of
//! them without moving a byte (AWS, "Uploading and copying objects using multipart upload").

use crate::Store;
use crate::access::account;
use crate::authorize::{self, Who};
use crate::conditions::{self, conditions};
use crate::contents::{Slice, cut};
use crate::crypt::Lock;
use crate::describe::{covers, described, etag, second, stamp, with_sums};
use crate::encryption;
use crate::error::internal;
use crate::lifecycle;
use crate::list::{Lister, Step, Wanted};
use crate::listing::{common_prefixes, encoded, wants_url};
use crate::lock::{self, Wish};
use crate::objects::{checked_key, page};
use crate::quota;
use crate::rows::{self, About, Asked, Part, Upload, json};
use crate::sum::{Algorithm, Covers};
use crate::upload::{self, Said};
use rusqlite::params;
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};
use std::sync::Arc;

pub const MOST_PARTS: i32 = 10_000;

impl Store {
    pub async fn create_multipart_upload(
        self: &Arc<Self>,
        mut request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<CreateMultipartUploadOutput> {
        let account = account(&request.extensions)?;
        checked_key(&request.input.key)?;
        let access = self.acl_wish(&request.headers, &request.extensions)?;
        let encryption = encryption::Wish::of(&request.headers)?;
        let always = self.encrypts();
        let mut about = described!(request.input).about(&request.extensions)?;
        let input = request.input;
        let asked = asked(
            input.checksum_algorithm.as_ref(),
            input.checksum_type.as_ref(),
        )?;
        about.asked = Some(asked);
        about.said = authorize::said_of_object(&request.headers);
        let wish = Wish::of(
            input.object_lock_mode,
            input.object_lock_retain_until_date,
            input.object_lock_legal_hold_status,
        );
        let (bucket, key) = (input.bucket, input.key);
        let (name, under) = (bucket.clone(), key.clone());
        let (id, lock, end) = self
            .db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &name, &account)?;
                let lock = encryption.lock(&bucket, always);
                about.encryption = lock.noted();
                about.by = access.by(&bucket);
                wish.apply(&bucket, &mut about, tx.now_ms)?;
                access.apply(&bucket, &mut about)?;
                // Ids of one key are in the order in which the uploads began.
                let id = format!(
                    "{:012x}{}",
                    tx.next_seq(),
                    hex::encode(rand::random::<[u8; 16]>())
                );
                tx.connection
                    .prepare_cached(
                        "INSERT INTO uploads (bucket, key, id, initiated_ms, about)
                         VALUES (?1, ?2, ?3, ?4, ?5)",
                    )
                    .and_then(|mut insert| {
                        insert.execute(params![
                            bucket.id,
                            under.as_bytes(),
                            id,
                            tx.now_ms,
                            json(&about)
                        ])
                    })
                    .map_err(internal)?;
                Ok((id, lock, end_of(&bucket, under.as_bytes(), tx.now_ms)))
            })
            .await?;
        let (abort_date, abort_rule_id) = end;
        encryption::tell(&request.extensions, lock.noted().as_ref(), lock.key());
        Ok(CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(id),
            abort_date,
            abort_rule_id,
            checksum_algorithm: asked.explicit.then(|| algorithm(asked.algorithm)),
            checksum_type: asked.explicit.then(|| covers(asked.covers)),
            ..Default::default()
        })
    }

    pub async fn upload_part(
        self: &Arc<Self>,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<UploadPartOutput> {
        let who = Who::of(&request.extensions)?;
        let said = Said::of(&request, request.input.body.as_ref())?;
        let input = request.input;
        let number = part_number(input.part_number)?;
        let upload = self
            .upload(&who, &input.bucket, &input.key, &input.upload_id)
            .await?;
        lock::part_wants_digest(&upload.about, said.has_digest())?;
        let lock = Lock::of_upload(&upload, &request.headers)?;
        encryption::tell(&request.extensions, lock.noted().as_ref(), lock.key());
        let asked = asked_of(&upload);
        // Sums of parts are the client's word; one sum of the whole can be made without.
        let wants = asked.explicit && asked.covers == Covers::Composite;
        let sent = said.algorithm();
        let other = asked.explicit && sent.is_some_and(|sent| sent != asked.algorithm);
        if other || (wants && sent.is_none()) {
            let sent = sent.map_or("null".into(), |sent| sent.name().to_lowercase());
            return Err(s3s::S3Error::with_message(
                s3s::S3ErrorCode::InvalidRequest,
                format!(
                    "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {sent}",
                    asked.algorithm.name().to_lowercase(),
                ),
            ));
        }
        let received =
            upload::receive(&self.contents, &said, input.body, asked.algorithm, &lock).await?;
        let part = Part {
            number,
            size: received.size,
            etag: received.md5.clone(),
            modified_ms: 0,
            sum: Some(received.sum.clone()),
            slices: Vec::new(),
        };
        let tag = received.md5.clone();
        let sum = received
            .sent
            .clone()
            .unwrap_or_else(|| received.sum.clone());
        self.db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &input.bucket, &who.account)?;
                rows::open_upload(tx.connection, bucket.id, &input.key, &input.upload_id)?;
                let slices = received.kept(tx)?;
                put_part(tx, &bucket, &input.upload_id, Part { slices, ..part })
            })
            .await?;
        self.after_write();
        let mut output = UploadPartOutput {
            e_tag: Some(etag(&tag)),
            ..Default::default()
        };
        let _ = with_sums!(output, Some(&sum));
        Ok(output)
    }

    pub async fn upload_part_copy(
        self: &Arc<Self>,
        mut request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<UploadPartCopyOutput> {
        let who = Who::of(&request.extensions)?;
        let input = &mut request.input;
        let number = part_number(input.part_number)?;
        let conditions = conditions!(source of input);
        let place = input.copy_source.clone();
        let upload = self
            .upload(&who, &input.bucket, &input.key, &input.upload_id)
            .await?;
        let lock = Lock::of_upload(&upload, &request.headers)?;
        encryption::tell(&request.extensions, lock.noted().as_ref(), lock.key());
        let source = self.source(&request, &place, conditions).await?;
        let input = request.input;
        let slices = copied_range(&source.version, input.copy_source_range.as_deref())?;
        let size = slices.iter().map(|slice| slice.len).sum();
        if size > 5 << 30 {
            return Err(upload::too_large());
        }
        let algorithm = asked_of(&upload).algorithm;
        let (tag, sum, bytes) = source.kept(self, slices, &lock, algorithm).await?;
        let part = Part {
            number,
            size,
            etag: tag.clone(),
            modified_ms: 0,
            sum: Some(sum.clone()),
            slices: Vec::new(),
        };
        let told = source.told();
        let modified_ms = self
            .db
            .write(move |tx| {
                source.unchanged(tx)?;
                let bucket = rows::bucket(tx.connection, &input.bucket, &who.account)?;
                rows::open_upload(tx.connection, bucket.id, &input.key, &input.upload_id)?;
                let slices = bytes.used(tx)?;
                put_part(tx, &bucket, &input.upload_id, Part { slices, ..part })?;
                Ok(tx.now_ms)
            })
            .await?;
        self.after_write();
        let mut result = CopyPartResult {
            e_tag: Some(etag(&tag)),
            last_modified: Some(second(modified_ms)),
            ..Default::default()
        };
        let _ = with_sums!(result, Some(&sum));
        Ok(UploadPartCopyOutput {
            copy_part_result: Some(result),
            copy_source_version_id: told,
            ..Default::default()
        })
    }

    async fn upload(&self, who: &Who, bucket: &str, key: &str, id: &str) -> S3Result<Upload> {
        let (who, bucket) = (who.clone(), bucket.to_owned());
        let (key, id) = (key.to_owned(), id.to_owned());
        self.db
            .read(move |db| {
                let bucket = rows::bucket(db, &bucket, &who.account)?;
                let upload = rows::open_upload(db, bucket.id, &key, &id)?;
                who.may_go_on(&bucket, &upload)?;
                Ok(upload)
            })
            .await
    }

    pub async fn abort_multipart_upload(
        self: &Arc<Self>,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<AbortMultipartUploadOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        self.db
            .write(move |tx| {
                let bucket = rows::bucket(tx.connection, &input.bucket, &who.account)?;
                let upload =
                    rows::open_upload(tx.connection, bucket.id, &input.key, &input.upload_id)?;
                who.may_go_on(&bucket, &upload)?;
                let initiated = second(upload.initiated_ms);
                if input
                    .if_match_initiated_time
                    .is_some_and(|time| time != initiated)
                {
                    return Err(conditions::failed("x-amz-if-match-initiated-time"));
                }
                abort(tx, bucket.id, &upload)
            })
            .await?;
        self.after_write();
        Ok(AbortMultipartUploadOutput::default())
    }

    pub async fn list_parts(
        self: &Arc<Self>,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<ListPartsOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let most = page(input.max_parts)?;
        let marker = input.part_number_marker.unwrap_or(0);
        let (name, key) = (input.bucket.clone(), input.key.clone());
        let id = input.upload_id.clone();
        let (bucket, upload, mut parts) = self
            .db
            .read(move |db| {
                let bucket = rows::bucket(db, &name, &who.account)?;
                let upload = rows::open_upload(db, bucket.id, &key, &id)?;
                who.may_go_on(&bucket, &upload)?;
                let parts = rows::parts(db, &upload.id, marker, most + 1)?;
                Ok((bucket, upload, parts))
            })
            .await?;
        let truncated = parts.len() > most && most > 0;
        parts.truncate(most);
        let asked = asked_of(&upload);
        let next = parts.last().map_or(marker, |part| part.number);
        let owner = self.owners(&bucket)(&upload.about);
        let by = self.began(&bucket, &upload.about);
        let (abort_date, abort_rule_id) = end_of(&bucket, &upload.key, upload.initiated_ms);
        let shown = parts.into_iter().map(|part| {
            let mut out = s3s::dto::Part {
                e_tag: Some(etag(&part.etag)),
                last_modified: Some(second(part.modified_ms)),
                part_number: Some(part.number),
                size: Some(part.size as i64),
                ..Default::default()
            };
            let _ = with_sums!(out, part.sum.as_ref().filter(|_| asked.explicit));
            out
        });
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            abort_date,
            abort_rule_id,
            parts: Some(shown.collect()),
            is_truncated: Some(truncated),
            max_parts: Some(most as i32),
            part_number_marker: Some(marker),
            next_part_number_marker: Some(next),
            owner: Some(owner),
            initiator: Some(initiator(by)),
            storage_class: Some(StorageClass::from(class(&upload.about))),
            checksum_algorithm: asked.explicit.then(|| algorithm(asked.algorithm)),
            checksum_type: asked.explicit.then(|| covers(asked.covers)),
            ..Default::default()
        })
    }

    pub async fn list_multipart_uploads(
        self: &Arc<Self>,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<ListMultipartUploadsOutput> {
        let account = account(&request.extensions)?;
        let input = request.input;
        let most = page(input.max_uploads)?;
        let url = wants_url(input.encoding_type.as_ref())?;
        let show = move |text: String| if url { encoded(&text) } else { text };
        let wanted = Wanted {
            prefix: input.prefix.clone().unwrap_or_default().into_bytes(),
            delimiter: input.delimiter.clone().unwrap_or_default().into_bytes(),
            after: input
                .key_marker
                .clone()
                .filter(|marker| !marker.is_empty())
                .map(String::into_bytes),
            max: most,
        };
        // Within the marker's key, what comes after the marker's upload.
        let begun = input
            .key_marker
            .clone()
            .zip(input.upload_id_marker.clone())
            .filter(|(key, id)| !key.is_empty() && !id.is_empty());
        let (name, caller) = (input.bucket.clone(), account);
        let (bucket, uploads, lister) = self
            .db
            .read(move |db| {
                let bucket = rows::bucket(db, &name, &caller)?;
                let (uploads, lister) = list_uploads(db, bucket.id, wanted, begun)?;
                Ok((bucket, uploads, lister))
            })
            .await?;
        let mut owners = self.owners(&bucket);
        let last = uploads.last().map(|upload| upload.id.clone());
        let next_key = lister
            .last()
            .map(|key| String::from_utf8_lossy(key).into_owned());
        let truncated = lister.truncated;
        let prefixes = common_prefixes(&lister, show);
        let shown = uploads.into_iter().map(|upload| {
            let asked = asked_of(&upload);
            let by = self.began(&bucket, &upload.about);
            MultipartUpload {
                key: Some(show(String::from_utf8_lossy(&upload.key).into_owned())),
                initiated: Some(second(upload.initiated_ms)),
                initiator: Some(initiator(by)),
                owner: Some(owners(&upload.about)),
                storage_class: Some(StorageClass::from(class(&upload.about))),
                checksum_algorithm: asked.explicit.then(|| algorithm(asked.algorithm)),
                checksum_type: asked.explicit.then(|| covers(asked.covers)),
                upload_id: Some(upload.id),
            }
        });
        let shown: Vec<MultipartUpload> = shown.collect();
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(show),
            encoding_type: input.encoding_type,
            is_truncated: Some(truncated),
            key_marker: Some(show(input.key_marker.unwrap_or_default())),
            upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
            max_uploads: Some(most as i32),
            next_key_marker: next_key.filter(|_| truncated).map(show),
            next_upload_id_marker: last.filter(|_| truncated),
            prefix: Some(show(input.prefix.unwrap_or_default())),
            uploads: Some(shown),
            ..Default::default()
        })
    }
}

/// Removes an upload and frees its parts.
pub fn abort(tx: &crate::db::Tx<'_>, bucket: i64, upload: &Upload) -> S3Result<()> {
    for part in rows::parts(tx.connection, &upload.id, 0, MOST_PARTS as usize)? {
        tx.release(&part.slices)?;
    }
    let remove = || -> rusqlite::Result<()> {
        tx.connection
            .prepare_cached("DELETE FROM parts WHERE upload = ?1")?
            .execute([&upload.id])?;
        tx.connection
            .prepare_cached("DELETE FROM uploads WHERE bucket = ?1 AND key = ?2 AND id = ?3")?
            .execute(params![bucket, upload.key, upload.id])?;
        Ok(())
    };
    remove().map_err(internal)
}

/// Uploads that are not completed, in the order of their keys and beginnings.
fn list_uploads(
    db: &rusqlite::Connection,
    bucket: i64,
    wanted: Wanted,
    begun: Option<(String, String)>,
) -> S3Result<(Vec<Upload>, Lister)> {
    let mut lister = Lister::new(wanted);
    let mut uploads = Vec::new();
    let mut select = db
        .prepare_cached(
            "SELECT key, id, initiated_ms, about, done FROM uploads
             WHERE bucket = ?1 AND (key, id) > (?2, ?3) AND done IS NULL ORDER BY key, id",
        )
        .map_err(internal)?;
    let mut from = match begun {
        Some((key, id)) if lister.covers(key.as_bytes()) => Some((key.into_bytes(), id)),
        _ => lister.start().map(|key| (key, String::new())),
    };
    'seek: while let Some((key, id)) = from.take() {
        let mut rows = select.query(params![bucket, key, id]).map_err(internal)?;
        while let Some(row) = rows.next().map_err(internal)? {
            let upload = Upload::of_row(row).map_err(internal)?;
            match lister.offer(&upload.key) {
                Step::Take => uploads.push(upload),
                Step::Seek(next) => {
                    from = Some((next, String::new()));
                    continue 'seek;
                }
                Step::Stop => break 'seek,
            }
        }
    }
    Ok((uploads, lister))
}

fn put_part(
    tx: &crate::db::Tx<'_>,
    bucket: &rows::Bucket,
    upload: &str,
    part: Part,
) -> S3Result<()> {
    let before = rows::parts(tx.connection, upload, part.number - 1, 1)?;
    if let Some(before) = before.first().filter(|before| before.number == part.number) {
        tx.release(&before.slices)?;
        tx.connection
            .prepare_cached("DELETE FROM parts WHERE upload = ?1 AND number = ?2")
            .and_then(|mut delete| delete.execute(params![upload, part.number]))
            .map_err(internal)?;
    }
    tx.connection
        .prepare_cached(
            "INSERT INTO parts (upload, number, size, etag, modified_ms, sum, slices, bucket)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                upload,
                part.number,
                part.size,
                part.etag,
                tx.now_ms,
                part.sum.as_ref().map(json),
                json(&part.slices),
                bucket.id
            ])
        })
        .map_err(internal)?;
    quota::judge(tx, bucket)
}

pub fn part_number(number: i32) -> S3Result<i32> {
    match (1..=MOST_PARTS).contains(&number) {
        true => Ok(number),
        false => Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and 10000, inclusive"
        )),
    }
}

fn asked(algorithm: Option<&ChecksumAlgorithm>, kind: Option<&ChecksumType>) -> S3Result<Asked> {
    let kind = match kind.map(|kind| kind.as_str()) {
        None => None,
        Some(ChecksumType::FULL_OBJECT) => Some(Covers::FullObject),
        Some(ChecksumType::COMPOSITE) => Some(Covers::Composite),
        Some(_) => {
            return Err(s3_error!(
                InvalidRequest,
                "Value for x-amz-checksum-type header is invalid."
            ));
        }
    };
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(DEFAULT),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
            )),
        };
    };
    let algorithm = Algorithm::named(algorithm.as_str()).ok_or_else(upload::invalid_algorithm)?;
    let covers = kind.unwrap_or_else(|| algorithm.default_of_parts());
    if !algorithm.covers(covers) {
        let name = match covers {
            Covers::FullObject => "FULL_OBJECT",
            Covers::Composite => "COMPOSITE",
        };
        return Err(s3s::S3Error::with_message(
            s3s::S3ErrorCode::InvalidRequest,
            format!(
                "The {name} checksum type cannot be used with the {} checksum algorithm.",
                algorithm.name().to_lowercase()
            ),
        ));
    }
    Ok(Asked {
        algorithm,
        covers,
        explicit: true,
    })
}

const DEFAULT: Asked = Asked {
    algorithm: Algorithm::Crc64Nvme,
    covers: Covers::FullObject,
    explicit: false,
};

pub fn asked_of(upload: &Upload) -> Asked {
    upload.about.asked.unwrap_or(DEFAULT)
}

fn algorithm(algorithm: Algorithm) -> ChecksumAlgorithm {
    ChecksumAlgorithm::from(algorithm.name().to_owned())
}

fn class(about: &About) -> String {
    about
        .class
        .clone()
        .unwrap_or_else(|| StorageClass::STANDARD.to_owned())
}

fn initiator(owner: Owner) -> Initiator {
    Initiator {
        display_name: owner.display_name,
        id: owner.id,
    }
}

/// When a rule of the bucket's aborts an upload, and the rule's name.
fn end_of(
    bucket: &rows::Bucket,
    key: &[u8],
    initiated_ms: i64,
) -> (Option<Timestamp>, Option<String>) {
    let lifecycle = bucket.config.lifecycle.as_ref();
    let end = lifecycle.and_then(|it| lifecycle::abortion(&it.rules, key, initiated_ms));
    end.map_or((None, None), |(at, rule)| {
        (Some(stamp(at)), rule.id.clone())
    })
}

fn copied_range(version: &rows::Version, range: Option<&str>) -> S3Result<Vec<Slice>> {
    let Some(range) = range else {
        return Ok(version.slices.clone());
    };
    let wrong = || {
        s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
        )
    };
    let (first, last) = range
        .strip_prefix("bytes=")
        .and_then(|it| it.split_once('-'))
        .ok_or_else(wrong)?;
    let first: u64 = first.parse().map_err(|_| wrong())?;
    let last: u64 = last.parse().map_err(|_| wrong())?;
    if first > last {
        return Err(wrong());
    }
    if last >= version.size {
        return Err(s3s::S3Error::with_message(
            s3s::S3ErrorCode::InvalidArgument,
            format!(
                "Range specified is not valid for source object of size: {}",
                version.size
            ),
        ));
    }
    Ok(cut(&version.slices, first, last - first + 1))
}
