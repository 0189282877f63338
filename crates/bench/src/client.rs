//! A plain HTTP/1.1 client: one kept connection, one request at a time, each signed with version 4.
//! Small on purpose, so that a figure is the server's and not the client's.

use anyhow::{Context, Result, bail, ensure};
use boira_api::auth::RequestHead;
use boira_api::sigv4;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
/// Longer than anything that is measured; a server that hangs ends the bench.
const PATIENCE: Duration = Duration::from_secs(600);
/// Servers close connections that nobody uses for longer.
const IDLE: Duration = Duration::from_secs(10);

/// Where to ask, and as whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Login {
    pub address: SocketAddr,
    pub region: String,
    pub access_key: String,
    pub secret: String,
}

/// A kept connection with the last answer's body.
pub struct Client {
    stream: BufReader<TcpStream>,
    /// The server said that it closes the connection after its last answer.
    closed: bool,
    last: Instant,
    address: SocketAddr,
    host: String,
    request: Vec<u8>,
    line: String,
    body: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        Ok(Self {
            stream: open(address)?,
            closed: false,
            last: Instant::now(),
            address,
            host: address.to_string(),
            request: Vec::new(),
            line: String::new(),
            body: Vec::new(),
        })
    }

    /// One EC2 action as a form; anything but 200 is an error with the service's words.
    pub fn ec2(&mut self, login: &Login, form: &str) -> Result<&[u8]> {
        let status = self.exchange(login, "ec2", "POST", "/", FORM, form.as_bytes())?;
        ensure!(status == 200, "{status}: {}", self.text());
        Ok(&self.body)
    }

    /// Boira's own JSON API, below `/boira/v1`.
    pub fn json(
        &mut self,
        login: &Login,
        method: &str,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<serde_json::Value> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let path = format!("/boira/v1{path}");
        let status = self.exchange(
            login,
            "boira",
            method,
            &path,
            "application/json",
            body.as_bytes(),
        )?;
        ensure!(status == 200, "{method} {path}: {status}: {}", self.text());
        serde_json::from_slice(&self.body).with_context(|| format!("read the answer of {path}"))
    }

    /// Puts a blob under its SHA-256.
    pub fn put_blob(&mut self, login: &Login, bytes: &[u8]) -> Result<String> {
        let name = hex::encode(Sha256::digest(bytes));
        let path = format!("/boira/v1/blobs/{name}");
        let status = self.exchange(
            login,
            "boira",
            "PUT",
            &path,
            "application/octet-stream",
            bytes,
        )?;
        ensure!(status == 200, "{path}: {status}: {}", self.text());
        Ok(name)
    }

    fn exchange(
        &mut self,
        login: &Login,
        service: &str,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<u16> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .context("the clock is before 1970")?;
        let headers = [
            ("host", self.host.as_bytes()),
            ("content-type", content_type.as_bytes()),
        ];
        let head = RequestHead {
            method,
            path,
            query: "",
            headers: &headers,
            parameters: &[],
        };
        let credentials = sigv4::Credentials {
            access_key: &login.access_key,
            secret: &login.secret,
        };
        let hash: [u8; 32] = Sha256::digest(body).into();
        let [(date_name, date), (authorization_name, authorization)] = sigv4::sign(
            credentials,
            &login.region,
            service,
            &head,
            &hash,
            now.as_millis() as i64,
        );
        self.request.clear();
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: {content_type}\r\n\
             content-length: {}\r\n{date_name}: {date}\r\n{authorization_name}: {authorization}\r\n\r\n",
            self.host,
            body.len(),
        )?;
        self.request.extend_from_slice(body);
        if self.closed || self.last.elapsed() > IDLE {
            self.stream = open(self.address)?;
            self.closed = false;
        }
        self.last = Instant::now();
        self.stream
            .get_mut()
            .write_all(&self.request)
            .context("send a request")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<u16> {
        self.read_line()?;
        let status: u16 = self
            .line
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("{:?} is no status line", self.line))?;
        let mut length = None;
        let mut chunked = false;
        loop {
            self.read_line()?;
            if self.line.is_empty() {
                break;
            }
            let Some((name, value)) = self.line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse::<usize>().context("read the body's length")?);
            }
            self.closed |=
                name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close");
            chunked |= name.eq_ignore_ascii_case("transfer-encoding")
                && value.eq_ignore_ascii_case("chunked");
        }
        self.body.clear();
        match length {
            Some(length) if !chunked => self.read_more(length)?,
            _ if chunked => self.read_chunks()?,
            _ => bail!("an answer without a length"),
        }
        Ok(status)
    }

    fn read_chunks(&mut self) -> Result<()> {
        loop {
            self.read_line()?;
            let digits = self.line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).context("read a chunk's size")?;
            self.read_more(size)?;
            self.read_line()?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn read_more(&mut self, count: usize) -> Result<()> {
        let at = self.body.len();
        self.body.resize(at + count, 0);
        self.stream
            .read_exact(&mut self.body[at..])
            .context("read a body")
    }

    fn read_line(&mut self) -> Result<()> {
        self.line.clear();
        let count = self
            .stream
            .read_line(&mut self.line)
            .context("read an answer")?;
        ensure!(count > 0, "the server closed the connection");
        self.line.truncate(self.line.trim_end().len());
        Ok(())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body)
            .chars()
            .take(600)
            .collect()
    }
}

fn open(address: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream
        .set_nodelay(true)
        .context("send small messages at once")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("limit the patience")?;
    Ok(BufReader::with_capacity(256 << 10, stream))
}

/// The text of the first element of this name.
pub fn element(xml: &[u8], name: &str) -> Option<String> {
    elements(xml, name).next().map(str::to_owned)
}

/// The texts of all elements of this name, which hold no others.
pub fn elements<'a>(xml: &'a [u8], name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let text = std::str::from_utf8(xml).unwrap_or_default();
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let begin = rest.find(&open)? + open.len();
        let end = begin + rest[begin..].find(&close)?;
        let found = &rest[begin..end];
        rest = &rest[end..];
        Some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn bodies_with_a_length_and_in_chunks_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut request = [0; 4096];
            let mut seen = Vec::new();
            let mut stream: Option<TcpStream> = None;
            for answer in [
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole",
                "HTTP/1.1 200 OK\r\nConnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nin \r\n6\r\npieces\r\n0\r\n\r\n",
                "HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\nno",
            ] {
                if answer.starts_with("HTTP/1.1 400") || seen.is_empty() {
                    stream = listener.accept().ok().map(|(stream, _)| stream);
                }
                let stream = stream.as_mut().unwrap();
                let count = stream.read(&mut request).unwrap();
                seen.push(String::from_utf8_lossy(&request[..count]).into_owned());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            seen
        });
        let login = Login {
            address,
            region: "us-east-1".into(),
            access_key: "AKIDEXAMPLE".into(),
            secret: "secret".into(),
        };
        let mut client = Client::connect(address).unwrap();
        assert_eq!(client.ec2(&login, "Action=A").unwrap(), b"whole");
        assert_eq!(client.ec2(&login, "Action=B").unwrap(), b"in pieces");
        let refused = client.ec2(&login, "Action=C").unwrap_err().to_string();
        assert_eq!(refused, "400: no");
        let seen = server.join().unwrap();
        assert!(seen[1].ends_with("\r\n\r\nAction=B") && seen[1].contains("AWS4-HMAC-SHA256"));
    }

    #[test]
    fn elements_are_found_by_name() {
        let xml = b"<a><id>1</id><b><id>2</id></b></a>";
        assert_eq!(elements(xml, "id").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(element(xml, "none"), None);
    }
}
