//! Takes a body in: bytes to the disk, digests on the way, and what the client said of them verified
//! before anything is acknowledged.

use crate::chunked::Trailers;
use crate::contents::{BLOCK, Contents, INLINE, New, Slice, Writing, io_error};
use crate::crypt::Lock;
use crate::db::Tx;
use crate::error::{
    custom, incomplete, internal, no_chunks, no_length, other_hash, other_signature, too_slow,
};
use crate::form::Limits;
use crate::sum::{Algorithm, Digester, Sum};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderMap;
use md5::{Digest, Md5};
use s3s::dto::StreamingBlob;
use s3s::stream::ByteStream;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The largest body of one request: 5 GiB (AWS, "Amazon S3 multipart upload limits").
const MOST: u64 = 5 << 30;
/// How long a client may send nothing.
const STALLED: Duration = Duration::from_secs(30);

/// What a request says of its body.
#[derive(Debug)]
pub struct Said {
    len: Option<u64>,
    md5: Option<Vec<u8>>,
    /// The checksum's algorithm, its value where a header has it; else a trailer brings it.
    sum: Option<(Algorithm, Option<String>)>,
    trailers: Option<s3s::TrailingHeaders>,
    /// Of a body that s3s didn't decode.
    decoded: Option<Trailers>,
    /// Of a form's file, whose length nobody says.
    limits: Option<Limits>,
}

/// A body that is on the disk, and has no row yet.
pub struct Received {
    new: Option<New>,
    pub size: u64,
    /// In hexadecimal digits: the ETag.
    pub md5: String,
    pub sum: Sum,
    /// The checksum that the client sent, where it is of another algorithm.
    pub sent: Option<Sum>,
}

impl Received {
    /// The bytes, where they are few and lie on the disk as they are.
    pub fn plain(&self) -> Option<Bytes> {
        let new = self.new.as_ref().filter(|new| new.sealed.is_none())?;
        new.bytes.clone()
    }

    /// Keeps the bytes; whoever calls it notes their slices.
    pub fn kept(self, tx: &Tx<'_>) -> S3Result<Vec<Slice>> {
        let slices = self.new.iter().map(New::slice).collect();
        if let Some(new) = self.new {
            tx.keep(new)?;
        }
        Ok(slices)
    }
}

impl Said {
    pub fn of<T>(request: &S3Request<T>, body: Option<&StreamingBlob>) -> S3Result<Self> {
        let headers = &request.headers;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // Of a form, and of aws-chunked content, it is the length of the file in it.
        let len = body
            .and_then(|body| body.remaining_length().exact())
            .map(|len| len as u64);
        let said = text("x-amz-decoded-content-length").or_else(|| text("content-length"));
        let limits = request.extensions.get::<Limits>().copied();
        Ok(Self {
            len: len.or_else(|| said.and_then(|len| len.parse().ok())),
            limits,
            md5: said_md5(headers)?,
            sum: said_sum(headers)?,
            trailers: request.trailing_headers.clone(),
            decoded: request.extensions.get::<Trailers>().cloned(),
        })
    }

    /// Of bytes that come from the store itself.
    pub fn of_length(len: u64) -> Self {
        Self {
            len: Some(len),
            limits: None,
            md5: None,
            sum: None,
            trailers: None,
            decoded: None,
        }
    }

    /// So many bytes will come, if it comes to that.
    pub fn at_least(&self) -> u64 {
        self.len.unwrap_or(0)
    }

    /// Whether so few bytes come that they lie in the database.
    pub fn is_little(&self) -> bool {
        self.len.is_some_and(|len| len <= INLINE as u64)
    }

    /// Whether the client says what the bytes are to be. Browsers can't compute what is in a form.
    pub fn has_digest(&self) -> bool {
        self.md5.is_some() || self.sum.is_some() || self.limits.is_some()
    }

    pub fn algorithm(&self) -> Option<Algorithm> {
        self.sum.as_ref().map(|(algorithm, _)| *algorithm)
    }

    fn verify(&self, size: u64, md5: &[u8], sum: &Sum) -> S3Result<()> {
        if self.limits.is_some_and(|limits| size < limits.least) {
            return Err(s3_error!(
                EntityTooSmall,
                "Your proposed upload is smaller than the minimum allowed size"
            ));
        }
        if self.len.is_some_and(|len| len != size) {
            return Err(incomplete());
        }
        if self.md5.as_ref().is_some_and(|said| said != md5) {
            return Err(other_md5());
        }
        let Some((algorithm, value)) = &self.sum else {
            return Ok(());
        };
        let trailer = || {
            if let Some(decoded) = &self.decoded {
                return decoded.get(algorithm.header());
            }
            let trailers = self.trailers.as_ref()?.take()?;
            Some(trailers.get(algorithm.header())?.to_str().ok()?.to_owned())
        };
        let Some(value) = value.clone().or_else(trailer) else {
            return Err(custom(
                "MalformedTrailerError",
                http::StatusCode::BAD_REQUEST,
                "The request contained trailing data that was not well-formed or did not conform to our published schema.",
            ));
        };
        is_digest(*algorithm, &value)?;
        match sum.is(&value) {
            true => Ok(()),
            false => Err(other_sum(*algorithm)),
        }
    }
}

/// The digest in Content-MD5.
pub fn said_md5(headers: &HeaderMap) -> S3Result<Option<Vec<u8>>> {
    let Some(value) = headers.get("content-md5") else {
        return Ok(None);
    };
    let digest = STANDARD.decode(value.as_bytes()).ok();
    match digest.filter(|digest| digest.len() == 16) {
        Some(digest) => Ok(Some(digest)),
        None => Err(s3_error!(
            InvalidDigest,
            "The Content-MD5 you specified was invalid."
        )),
    }
}

pub fn other_md5() -> S3Error {
    s3_error!(
        BadDigest,
        "The Content-MD5 you specified did not match what we received."
    )
}

pub fn other_sum(algorithm: Algorithm) -> S3Error {
    S3Error::with_message(
        S3ErrorCode::BadDigest,
        format!(
            "The {} you specified did not match the calculated checksum.",
            algorithm.name()
        ),
    )
}

/// The checksum of the request's body, and its value where a header has it.
pub fn said_sum(headers: &HeaderMap) -> S3Result<Option<(Algorithm, Option<String>)>> {
    check_sum_headers(headers)?;
    let mut found = None;
    for algorithm in Algorithm::ALL {
        if let Some(value) = headers.get(algorithm.header()) {
            let value = value.to_str().unwrap_or_default().to_owned();
            is_digest(algorithm, &value)?;
            if found.replace((algorithm, Some(value))).is_some() {
                return Err(several_sums());
            }
        }
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(trailer) = text("x-amz-trailer") {
        let trailer = trailer.trim();
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.header().eq_ignore_ascii_case(trailer))
            .ok_or_else(|| {
                s3_error!(
                    InvalidRequest,
                    "The value specified in the x-amz-trailer header is not supported"
                )
            })?;
        if found.replace((algorithm, None)).is_some() {
            return Err(several_sums());
        }
    }
    let Some(asked) = text("x-amz-sdk-checksum-algorithm") else {
        return Ok(found);
    };
    let asked = Algorithm::named(asked).ok_or_else(invalid_algorithm)?;
    match found {
        Some((algorithm, _)) if algorithm == asked => Ok(found),
        _ => Err(s3_error!(
            InvalidRequest,
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."
        )),
    }
}

/// A checksum that isn't known can't be verified.
pub fn check_sum_headers(headers: &HeaderMap) -> S3Result<()> {
    const ABOUT: [&str; 3] = [
        "x-amz-checksum-algorithm",
        "x-amz-checksum-mode",
        "x-amz-checksum-type",
    ];
    let is_known = |name: &str| {
        ABOUT.contains(&name) || Algorithm::ALL.iter().any(|known| known.header() == name)
    };
    let mut names = headers.keys().map(http::HeaderName::as_str);
    match names.all(|name| !name.starts_with("x-amz-checksum-") || is_known(name)) {
        true => Ok(()),
        false => Err(invalid_algorithm()),
    }
}

fn several_sums() -> S3Error {
    s3_error!(
        InvalidRequest,
        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
    )
}

pub fn invalid_algorithm() -> S3Error {
    s3_error!(
        InvalidRequest,
        "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"
    )
}

fn is_digest(algorithm: Algorithm, value: &str) -> S3Result<()> {
    match STANDARD.decode(value) {
        Ok(digest) if digest.len() == algorithm.bytes() => Ok(()),
        _ => Err(S3Error::with_message(
            S3ErrorCode::InvalidRequest,
            format!("Value for {} header is invalid.", algorithm.header()),
        )),
    }
}

/// Takes a body in. `algorithm` is that of the checksum that is kept; where the client sent another
/// one, that is verified too.
pub async fn receive(
    contents: &Arc<Contents>,
    said: &Said,
    body: Option<StreamingBlob>,
    algorithm: Algorithm,
    lock: &Lock,
) -> S3Result<Received> {
    let most = said.limits.map(|limits| limits.most);
    let len = said.len.or(most).ok_or_else(no_length)?;
    if len > MOST && most.is_none() {
        return Err(too_large());
    }
    let len = len.min(MOST);
    let mut room = contents.room(len)?;
    let mut body = body;
    let mut pending = contents.buffers.take(BLOCK);
    let mut stage = Stage::Idle(Intake::new(algorithm, said.algorithm(), lock.clone()));
    let mut size = 0;
    while let Some(mut piece) = next(&mut body).await? {
        size += piece.len() as u64;
        if size > len && most.is_some() {
            return Err(too_large());
        }
        if size > len {
            return Err(s3_error!(
                IncompleteBody,
                "The request body has more bytes than its Content-Length says."
            ));
        }
        while !piece.is_empty() {
            let missing = BLOCK - pending.len();
            pending.extend(&piece.split_to(missing.min(piece.len())));
            if pending.len() == BLOCK {
                let block = std::mem::replace(&mut pending, contents.buffers.take(BLOCK)).freeze();
                stage = stage.idle().await?.begin(contents, block);
                room.take(BLOCK as u64);
            }
        }
    }
    let intake = stage.idle().await?;
    let last = pending.freeze();
    let finished = match intake.rest.writing.is_none() && last.len() <= INLINE {
        // A copy of its own: what it lies in is far larger, and waited for.
        true => intake.small(contents, Bytes::copy_from_slice(&last)),
        false => {
            let contents = contents.clone();
            tokio::task::spawn_blocking(move || intake.finish(&contents, &last))
                .await
                .map_err(internal)?
        }
    };
    let digested = finished?;
    let sent = digested.check.as_ref().unwrap_or(&digested.sum);
    said.verify(size, &digested.md5, sent)?;
    Ok(Received {
        new: digested.new,
        size,
        md5: lock.etag(hex::encode(digested.md5)),
        sent: digested.check,
        sum: digested.sum,
    })
}

pub fn too_large() -> S3Error {
    s3_error!(
        EntityTooLarge,
        "Your proposed upload exceeds the maximum allowed size"
    )
}

async fn next(body: &mut Option<StreamingBlob>) -> S3Result<Option<Bytes>> {
    let Some(body) = body else {
        return Ok(None);
    };
    match tokio::time::timeout(STALLED, body.next()).await {
        Err(_) => Err(too_slow()),
        Ok(None) => Ok(None),
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(Some(Err(error))) => Err(broken(error)),
    }
}

/// A body that ends early, or whose chunks are not what their signatures say.
fn broken(error: s3s::StdError) -> S3Error {
    match error.downcast::<S3Error>() {
        Ok(error) => *error,
        Err(error) => {
            let text = error.to_string();
            if text.contains("SignatureMismatch") {
                return other_signature();
            }
            if text.contains("Sha256Mismatch") {
                return other_hash();
            }
            if ["FormatError", "TooLarge", "TooMany"]
                .iter()
                .any(|kind| text.contains(kind))
            {
                return no_chunks();
            }
            incomplete()
        }
    }
}

/// While one block is hashed and written, the next one comes in.
enum Stage {
    Idle(Intake),
    Busy(JoinHandle<Box<Md5>>, JoinHandle<S3Result<Box<Rest>>>),
}

impl Stage {
    async fn idle(self) -> S3Result<Intake> {
        match self {
            Stage::Idle(intake) => Ok(intake),
            Stage::Busy(md5, rest) => Ok(Intake {
                md5: md5.await.map_err(internal)?,
                rest: rest.await.map_err(internal)??,
            }),
        }
    }
}

/// What was done with the blocks so far. MD5 takes as long as all the rest, and is done beside it.
struct Intake {
    md5: Box<Md5>,
    rest: Box<Rest>,
}

/// Checksums, and the file, once there is one.
struct Rest {
    sum: (Algorithm, Digester),
    check: Option<(Algorithm, Digester)>,
    writing: Option<Writing>,
    lock: Lock,
}

struct Digested {
    new: Option<New>,
    md5: Vec<u8>,
    sum: Sum,
    check: Option<Sum>,
}

impl Rest {
    fn digest(&mut self, bytes: &[u8]) {
        self.sum.1.update(bytes);
        if let Some((_, check)) = &mut self.check {
            check.update(bytes);
        }
    }

    fn block(&mut self, contents: &Contents, block: &[u8]) -> S3Result<()> {
        self.digest(block);
        let writing = match &mut self.writing {
            Some(writing) => writing,
            None => self.writing.insert(contents.create(&self.lock)?),
        };
        writing.block(block).map_err(io_error)
    }
}

impl Intake {
    fn new(kept: Algorithm, sent: Option<Algorithm>, lock: Lock) -> Self {
        let digester = |algorithm| (algorithm, Digester::new(algorithm));
        Self {
            md5: Box::default(),
            rest: Box::new(Rest {
                sum: digester(kept),
                check: sent.filter(|sent| *sent != kept).map(digester),
                writing: None,
                lock,
            }),
        }
    }

    fn begin(self, contents: &Arc<Contents>, block: Bytes) -> Stage {
        let (mut md5, mut rest) = (self.md5, self.rest);
        let (contents, same) = (contents.clone(), block.clone());
        let md5 = tokio::task::spawn_blocking(move || {
            md5.update(&same);
            md5
        });
        let rest = tokio::task::spawn_blocking(move || {
            rest.block(&contents, &block)?;
            Ok(rest)
        });
        Stage::Busy(md5, rest)
    }

    fn small(mut self, contents: &Contents, bytes: Bytes) -> S3Result<Digested> {
        self.md5.update(&bytes);
        self.rest.digest(&bytes);
        let new = match bytes.is_empty() {
            true => None,
            false => Some(contents.inline(bytes, &self.rest.lock)?),
        };
        self.digested(new)
    }

    fn finish(mut self, contents: &Contents, last: &[u8]) -> S3Result<Digested> {
        if !last.is_empty() {
            self.md5.update(last);
            self.rest.block(contents, last)?;
        }
        let new = match self.rest.writing.take() {
            Some(writing) => Some(writing.finish().map_err(io_error)?),
            None => None,
        };
        self.digested(new)
    }

    fn digested(self, new: Option<New>) -> S3Result<Digested> {
        let sum = |(algorithm, digester): (Algorithm, Digester)| {
            Sum::of_bytes(algorithm, &digester.finish())
        };
        Ok(Digested {
            new,
            md5: self.md5.finalize().to_vec(),
            sum: sum(self.rest.sum),
            check: self.rest.check.map(sum),
        })
    }
}
