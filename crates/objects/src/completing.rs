//! The end of a multipart upload: an object of the parts that the client names.

use crate::Store;
use crate::assembling::{Expected, Named, assemble};
use crate::authorize::Who;
use crate::conditions::OfWrite;
use crate::db::Tx;
use crate::describe::{etag, with_sums};
use crate::encryption::{self, Encryption};
use crate::error::internal;
use crate::lifecycle;
use crate::listing::encoded;
use crate::multipart::MOST_PARTS;
use crate::quota;
use crate::rows::{self, Bucket, Done, Upload, Versioning, json};
use crate::sum::Algorithm;
use rusqlite::params;
use s3s::dto::{
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedMultipartUpload,
};
use s3s::{S3Request, S3Result, s3_error};
use std::sync::Arc;

impl Store {
    pub async fn complete_multipart_upload(
        self: &Arc<Self>,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let who = Who::of(&request.extensions)?;
        let input = request.input;
        let ending = Ending {
            who,
            named: named(input.multipart_upload)?,
            expected: Expected {
                size: input.mpu_object_size.map(|size| size as u64),
                sums: [
                    (Algorithm::Crc32, input.checksum_crc32),
                    (Algorithm::Crc32c, input.checksum_crc32c),
                    (Algorithm::Crc64Nvme, input.checksum_crc64nvme),
                    (Algorithm::Sha1, input.checksum_sha1),
                    (Algorithm::Sha256, input.checksum_sha256),
                ]
                .into_iter()
                .filter_map(|(algorithm, value)| Some((algorithm, value?)))
                .collect(),
                kind: input.checksum_type.map(|kind| kind.as_str().to_owned()),
            },
            conditions: OfWrite {
                matches: input.if_match,
                none_matches: input.if_none_match,
            },
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            id: input.upload_id,
        };
        let (bucket, key) = (input.bucket, input.key);
        let (done, told) = self.db.write(move |tx| ending.carry_out(tx)).await?;
        self.after_write();
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!(
                "{}/{bucket}/{}",
                self.settings.endpoint,
                encoded(&key)
            )),
            bucket: Some(bucket),
            key: Some(key),
            e_tag: Some(etag(&done.etag)),
            expiration: done.expiration,
            version_id: done.version.filter(|_| told),
            ..Default::default()
        };
        output.checksum_type = with_sums!(output, done.sum.as_ref());
        let master = done.master.then_some(Encryption::Master);
        encryption::tell(&request.extensions, master.as_ref(), None);
        Ok(output)
    }
}

/// The parts that a client names, in their order.
fn named(parts: Option<CompletedMultipartUpload>) -> S3Result<Vec<Named>> {
    let parts = parts.and_then(|named| named.parts).unwrap_or_default();
    let named = parts
        .into_iter()
        .map(Named::of)
        .collect::<S3Result<Vec<_>>>()?;
    if named.is_empty() {
        return Err(s3_error!(
            MalformedXML,
            "You must specify at least one part"
        ));
    }
    match named.windows(2).all(|two| two[0].number < two[1].number) {
        true => Ok(named),
        false => Err(s3_error!(
            InvalidPartOrder,
            "The list of parts was not in ascending order. Parts must be ordered by part number."
        )),
    }
}

/// How an upload is to become an object.
struct Ending {
    who: Who,
    named: Vec<Named>,
    expected: Expected,
    conditions: OfWrite,
    bucket: String,
    key: String,
    id: String,
}

impl Ending {
    /// Answers what was made, and whether its maker is told of its version.
    fn carry_out(&self, tx: &Tx<'_>) -> S3Result<(Done, bool)> {
        let bucket = rows::bucket(tx.connection, &self.bucket, &self.who.account)?;
        let enabled = bucket.config.versioning == Some(Versioning::Enabled);
        let upload = rows::find_upload(tx.connection, bucket.id, &self.key, &self.id)?;
        self.who.may_go_on(&bucket, &upload)?;
        let parts: Vec<_> = self
            .named
            .iter()
            .map(|part| (part.number, &part.etag))
            .collect();
        let parts = json(&parts);
        let done = match upload.done.clone() {
            None => self.make(tx, &bucket, &upload, parts)?,
            // Asked again, as clients do when the answer was lost.
            Some(done) if done.parts == parts => done,
            Some(_) => {
                rows::open_upload(tx.connection, bucket.id, &self.key, &self.id)?;
                return Err(internal("a completed upload is open"));
            }
        };
        Ok((done, enabled))
    }

    fn make(&self, tx: &Tx<'_>, bucket: &Bucket, upload: &Upload, parts: String) -> S3Result<Done> {
        self.conditions.judge(tx.connection, bucket, &self.key)?;
        let have = rows::parts(tx.connection, &upload.id, 0, MOST_PARTS as usize)?;
        let (put, unused) = assemble(upload, have, &self.named, &self.expected)?;
        for part in unused {
            tx.release(&part.slices)?;
        }
        tx.connection
            .prepare_cached("DELETE FROM parts WHERE upload = ?1")
            .and_then(|mut delete| delete.execute([&upload.id]))
            .map_err(internal)?;
        let (etag, sum) = (put.etag.clone(), put.about.sum.clone());
        let master = put.about.encryption == Some(Encryption::Master);
        let version = bucket.put(tx, &self.key, put)?;
        quota::judge(tx, bucket)?;
        let done = Done {
            etag,
            expiration: lifecycle::expiration(bucket, &version),
            version: Some(version.id),
            sum,
            parts,
            at_ms: tx.now_ms,
            master,
        };
        let row = params![bucket.id, self.key.as_bytes(), upload.id, json(&done)];
        tx.connection
            .prepare_cached(
                "UPDATE uploads SET done = ?4 WHERE bucket = ?1 AND key = ?2 AND id = ?3",
            )
            .and_then(|mut update| update.execute(row))
            .map_err(internal)?;
        Ok(done)
    }
}
