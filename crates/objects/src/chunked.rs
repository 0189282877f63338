//! aws-chunked bodies on their way to s3s, which holds each chunk in memory until it is whole: a client may
//! send its body as one chunk, so chunks without a signature are cut into small ones here, and those with
//! one, which can't be cut, are refused where they are large. Where nobody signs, s3s takes the body as it
//! is, and it is decoded here (AWS, "Signature calculations for the authorization header: transferring
//! payload in multiple chunks").

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use s3s::stream::{ByteStream, DynByteStream};
use s3s::{Body, StdError};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// What s3s gets of a chunk at a time.
const PIECE: usize = 64 << 10;
/// A signed chunk is in memory as a whole. SDKs make them of 64 or 128 KiB.
const MOST_SIGNED: u64 = 8 << 20;
/// Of a chunk's first line.
const LONGEST_LINE: usize = 1024;
/// Of all trailers together.
const MOST_TRAILERS: usize = 16 << 10;

/// The trailers of a body that was decoded here, once it has been read.
#[derive(Clone, Debug, Default)]
pub struct Trailers(Arc<Mutex<HeaderMap>>);

impl Trailers {
    pub fn get(&self, name: &str) -> Option<String> {
        let trailers = self.0.lock().expect("no holder of this lock panics");
        Some(trailers.get(name)?.to_str().ok()?.to_owned())
    }
}

/// The request with a body that s3s takes in bounded memory.
pub fn bounded(mut request: Request<Body>) -> Request<Body> {
    let headers = request.headers();
    // Only of version 4 s3s decodes it.
    let authorization = headers.get(header::AUTHORIZATION);
    let signed = authorization.is_some_and(|value| value.as_bytes().starts_with(b"AWS4-"));
    let hash = headers.get("x-amz-content-sha256");
    let mode = match hash.map(HeaderValue::as_bytes).unwrap_or_default() {
        b"STREAMING-UNSIGNED-PAYLOAD-TRAILER" if signed => Mode::Cut,
        b"STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Mode::Decode,
        hash if hash.starts_with(b"STREAMING-") && signed => Mode::Pass,
        _ => return request,
    };
    let trailers = Trailers::default();
    if mode == Mode::Decode {
        request.extensions_mut().insert(trailers.clone());
    }
    let body = Chunks {
        body: std::mem::take(request.body_mut()),
        parser: Parser::new(mode),
        ready: VecDeque::new(),
        trailers,
        ended: false,
    };
    let body: DynByteStream = Box::pin(body);
    *request.body_mut() = Body::from(body);
    request
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Chunks of any size become small ones.
    Cut,
    /// Nothing changes.
    Pass,
    /// What is in the chunks.
    Decode,
}

/// Why a body isn't one. Its words are what s3s's own errors have in theirs.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
enum Wrong {
    #[error("FormatError")]
    Format,
    #[error("ChunkTooLarge")]
    Large,
    #[error("Incomplete")]
    Incomplete,
}

struct Parser {
    mode: Mode,
    state: State,
    /// Of a chunk's first line, or the trailers.
    kept: Vec<u8>,
}

enum State {
    Line,
    /// So many bytes of a chunk are still to come.
    Data(u64),
    /// So many bytes of a chunk's line end were there.
    End(usize),
    Trailers,
}

impl Parser {
    fn new(mode: Mode) -> Self {
        Self {
            mode,
            state: State::Line,
            kept: Vec::new(),
        }
    }

    /// Takes bytes in and adds what is to be passed on.
    fn feed(&mut self, mut input: Bytes, out: &mut VecDeque<Bytes>) -> Result<(), Wrong> {
        while !input.is_empty() {
            match self.state {
                State::Line => self.line(&mut input, out)?,
                State::Data(left) => {
                    let here = left.min(input.len() as u64).min(PIECE as u64);
                    let piece = input.split_to(here as usize);
                    match self.mode {
                        Mode::Cut => {
                            out.push_back(format!("{here:x}\r\n").into());
                            out.push_back(piece);
                            out.push_back(Bytes::from_static(b"\r\n"));
                        }
                        Mode::Pass | Mode::Decode => out.push_back(piece),
                    }
                    self.state = match left - here {
                        0 => State::End(0),
                        left => State::Data(left),
                    };
                }
                State::End(there) => {
                    let expected = b"\r\n"[there];
                    let found = input.split_to(1);
                    if found[0] != expected {
                        return Err(Wrong::Format);
                    }
                    if self.mode == Mode::Pass {
                        out.push_back(found);
                    }
                    self.state = match there {
                        0 => State::End(1),
                        _ => State::Line,
                    };
                }
                State::Trailers => {
                    let all = input.split_to(input.len());
                    match self.mode {
                        Mode::Cut | Mode::Pass => out.push_back(all),
                        Mode::Decode if self.kept.len() + all.len() > MOST_TRAILERS => {
                            return Err(Wrong::Large);
                        }
                        Mode::Decode => self.kept.extend_from_slice(&all),
                    }
                }
            }
        }
        Ok(())
    }

    /// A chunk's first line: its size in hexadecimal digits, and perhaps its signature.
    fn line(&mut self, input: &mut Bytes, out: &mut VecDeque<Bytes>) -> Result<(), Wrong> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let here = input.split_to(end.map_or(input.len(), |end| end + 1));
        if self.kept.len() + here.len() > LONGEST_LINE {
            return Err(Wrong::Large);
        }
        self.kept.extend_from_slice(&here);
        if end.is_none() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.kept);
        let size = size_of(&line).ok_or(Wrong::Format)?;
        if self.mode == Mode::Pass && size > MOST_SIGNED {
            return Err(Wrong::Large);
        }
        match self.mode {
            Mode::Pass => out.push_back(line.into()),
            Mode::Cut if size == 0 => out.push_back(Bytes::from_static(b"0\r\n")),
            Mode::Cut | Mode::Decode => {}
        }
        self.state = match size {
            0 => State::Trailers,
            size => State::Data(size),
        };
        Ok(())
    }

    /// The body's end: its trailers, where they are read here.
    fn end(&self) -> Result<HeaderMap, Wrong> {
        match (&self.state, self.mode) {
            (State::Trailers, Mode::Decode) => trailers(&self.kept).ok_or(Wrong::Format),
            (State::Trailers, _) => Ok(HeaderMap::new()),
            (State::Line | State::Data(_) | State::End(_), _) => Err(Wrong::Incomplete),
        }
    }
}

fn size_of(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?;
    let size = line.split(';').next()?;
    let digits = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(size, 16).ok()).flatten()
}

fn trailers(text: &[u8]) -> Option<HeaderMap> {
    let text = std::str::from_utf8(text).ok()?;
    let lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let mut found = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
        found.append(name, HeaderValue::from_str(value.trim()).ok()?);
    }
    Some(found)
}

/// A body that goes through a [`Parser`].
struct Chunks {
    body: Body,
    parser: Parser,
    ready: VecDeque<Bytes>,
    trailers: Trailers,
    ended: bool,
}

impl Stream for Chunks {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(piece) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            let read = match Pin::new(&mut this.body).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(read) => read,
            };
            let outcome = match read {
                Some(Ok(bytes)) if bytes.has_remaining() => {
                    this.parser.feed(bytes, &mut this.ready)
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.ended = true;
                    this.parser.end().map(|found| {
                        let trailers = this.trailers.0.lock();
                        *trailers.expect("no holder of this lock panics") = found;
                    })
                }
            };
            if let Err(wrong) = outcome {
                this.ended = true;
                this.ready.clear();
                return Poll::Ready(Some(Err(Box::new(wrong))));
            }
        }
    }
}

impl ByteStream for Chunks {}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a body that arrives in pieces of a size.
    fn through(mode: Mode, body: &[u8], size: usize) -> Result<(Vec<Bytes>, HeaderMap), Wrong> {
        let mut parser = Parser::new(mode);
        let mut out = VecDeque::new();
        for piece in body.chunks(size) {
            parser.feed(Bytes::copy_from_slice(piece), &mut out)?;
        }
        Ok((out.into(), parser.end()?))
    }

    const BODY: &[u8] = b"5\r\nhello\r\n7\r\n, world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";

    #[test]
    fn a_body_is_decoded_however_it_arrives() {
        for size in 1..BODY.len() + 1 {
            let (out, trailers) = through(Mode::Decode, BODY, size).expect("it is one");
            assert_eq!(out.concat(), b"hello, world");
            assert_eq!(trailers["x-amz-checksum-crc32"], "AAAAAA==");
            let (out, _) = through(Mode::Pass, BODY, size).expect("it is one");
            assert_eq!(out.concat(), BODY);
            let (cut, _) = through(Mode::Cut, BODY, size).expect("it is one");
            let again = through(Mode::Decode, &cut.concat(), 7).expect("it still is one");
            assert_eq!(again.0.concat(), b"hello, world");
            assert_eq!(again.1, trailers);
        }
    }

    #[test]
    fn a_chunk_of_any_size_is_passed_on_in_small_ones() {
        let data = vec![7; 300_000];
        let body = [b"0000493E0;x=y\r\n", &data[..], b"\r\n0\r\n\r\n"].concat();
        let (out, _) = through(Mode::Cut, &body, 1 << 20).expect("it is one");
        assert!(out.iter().all(|piece| piece.len() <= PIECE));
        let again = through(Mode::Decode, &out.concat(), 1 << 20).expect("it still is one");
        assert_eq!(again.0.concat(), data);
        let mut parser = Parser::new(Mode::Cut);
        let mut out = VecDeque::new();
        let huge = Bytes::from_static(b"140000000\r\nabc");
        parser.feed(huge, &mut out).expect("5 GiB are to come");
        assert_eq!(out.make_contiguous().concat(), b"3\r\nabc\r\n");
    }

    #[test]
    fn what_is_no_such_body_is_refused() {
        for (mode, body, wrong) in [
            (Mode::Cut, &b"x\r\n"[..], Wrong::Format),
            (Mode::Cut, b"\r\n", Wrong::Format),
            (Mode::Cut, b"5\nhello\r\n", Wrong::Format),
            (Mode::Cut, b"+5\r\nhello\r\n", Wrong::Format),
            (Mode::Cut, b"11111111111111111\r\n", Wrong::Format),
            (Mode::Cut, b"5\r\nhello!\r\n", Wrong::Format),
            (Mode::Cut, b"5\r\nhel", Wrong::Incomplete),
            (Mode::Cut, b"5\r\nhello\r\n", Wrong::Incomplete),
            (Mode::Cut, b"", Wrong::Incomplete),
            (Mode::Cut, &[b'1'; 2000], Wrong::Large),
            (Mode::Pass, b"800001;chunk-signature=0\r\n", Wrong::Large),
            (Mode::Decode, b"0\r\nno header\r\n", Wrong::Format),
        ] {
            for size in [1, 4096] {
                let found = through(mode, body, size).map(drop);
                assert_eq!(found, Err(wrong), "{:?}", String::from_utf8_lossy(body));
            }
        }
    }
}
