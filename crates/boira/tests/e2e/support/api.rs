//! A plain client: one signed request per connection, and the answer as a tree. The real clients are
//! tested elsewhere; this one is quick and hides nothing.

use boira_api::auth::RequestHead;
use boira_api::sigv4::{self, Credentials};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const VERSION: &str = "2016-11-15";
const REGION: &str = "us-east-1";

/// One account's access to one cloud.
#[derive(Clone, Debug)]
pub struct Api {
    pub port: u16,
    pub access_key: String,
    pub secret: String,
    /// The network namespace that the cloud's API listens in.
    pub namespace: Option<PathBuf>,
}

/// An error of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: u16,
    pub code: String,
    pub message: String,
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Api {
    /// One EC2 action.
    pub fn try_call(&self, action: &str, parameters: &[(&str, &str)]) -> Result<Node, Failure> {
        let mut form = format!("Action={action}&Version={VERSION}");
        for (name, value) in parameters {
            form.push('&');
            boira_api::form::percent_encode(&mut form, name.as_bytes(), b"");
            form.push('=');
            boira_api::form::percent_encode(&mut form, value.as_bytes(), b"");
        }
        let request = self.signed(form.as_bytes());
        let answer = self.exchange(&request).map_err(|error| Failure {
            status: 0,
            code: "NoAnswer".into(),
            message: error.to_string(),
        })?;
        let document = Node::parse(&answer.body).map_err(|message| Failure {
            status: answer.status,
            code: "NoXml".into(),
            message,
        })?;
        match answer.status {
            200 => Ok(document),
            status => Err(Failure {
                status,
                code: document.text("Errors/Error/Code"),
                message: document.text("Errors/Error/Message"),
            }),
        }
    }

    /// One EC2 action that must succeed.
    #[track_caller]
    pub fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Node {
        self.try_call(action, parameters)
            .unwrap_or_else(|failure| panic!("{action} {parameters:?}: {failure:?}"))
    }

    /// One EC2 action that must be refused; answers the error's code.
    #[track_caller]
    pub fn refused(&self, action: &str, parameters: &[(&str, &str)]) -> String {
        match self.try_call(action, parameters) {
            Ok(_) => panic!("{action} {parameters:?} was not refused"),
            Err(failure) => failure.code,
        }
    }

    /// An instance's state and the code of its reason.
    #[track_caller]
    pub fn state(&self, id: &str) -> (String, String) {
        let answer = self.call("DescribeInstances", &[("InstanceId.1", id)]);
        let row = &answer.items("reservationSet")[0].items("instancesSet")[0];
        (row.text("instanceState/name"), row.text("stateReason/code"))
    }

    /// A POST of a form to EC2, signed, as it goes over the wire.
    pub fn signed(&self, form: &[u8]) -> Vec<u8> {
        let host = format!("127.0.0.1:{}", self.port);
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        let headers: [(&str, &[u8]); 2] =
            [("host", host.as_bytes()), ("content-type", kind.as_bytes())];
        let head = RequestHead {
            method: "POST",
            path: "/",
            query: "",
            headers: &headers,
            parameters: &[],
        };
        let credentials = Credentials {
            access_key: &self.access_key,
            secret: &self.secret,
        };
        let hash = Sha256::digest(form).into();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("it is after 1970");
        let signature = sigv4::sign(
            credentials,
            REGION,
            "ec2",
            &head,
            &hash,
            now.as_millis() as i64,
        );
        let mut request = format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n",
            form.len()
        );
        for (name, value) in &signature {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(form);
        request
    }

    /// Sends bytes and reads to the end of the connection.
    pub fn exchange(&self, request: &[u8]) -> std::io::Result<Answer> {
        let mut stream = self.connect()?;
        // A server that refuses early closes before it has read everything.
        let _ = stream.write_all(request);
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        if bytes.is_empty() {
            read?;
        }
        Answer::parse(&bytes)
    }

    /// A connection to the API, made in the cloud's namespace.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = match &self.namespace {
            None => TcpStream::connect(("127.0.0.1", self.port)),
            Some(namespace) => connect_within(namespace, self.port),
        }?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(stream)
    }
}

/// A socket stays in the namespace of the thread that made it.
fn connect_within(namespace: &std::path::Path, port: u16) -> std::io::Result<TcpStream> {
    let file = std::fs::File::open(namespace)?;
    std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        TcpStream::connect(("127.0.0.1", port))
    })
    .join()
    .expect("connecting does not panic")
}

impl Answer {
    fn parse(bytes: &[u8]) -> std::io::Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let bad = || std::io::Error::other(format!("no HTTP answer: {text:?}"));
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .ok_or_else(bad)?;
        let chunked = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        let body = if chunked {
            unchunk(body).ok_or_else(bad)?
        } else {
            body.to_owned()
        };
        Ok(Self { status, body })
    }
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

/// An XML element.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub content: String,
    pub children: Vec<Node>,
}

impl Node {
    fn parse(text: &str) -> Result<Self, String> {
        let document = roxmltree::Document::parse(text).map_err(|e| format!("{e} in {text}"))?;
        Ok(Self::from(document.root_element()))
    }

    fn from(node: roxmltree::Node<'_, '_>) -> Self {
        Self {
            name: node.tag_name().name().to_owned(),
            content: node.text().unwrap_or_default().to_owned(),
            children: node
                .children()
                .filter(|c| c.is_element())
                .map(Self::from)
                .collect(),
        }
    }

    /// The element at a path of names, `placement/availabilityZone`.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('/').try_fold(self, |node, name| {
            node.children.iter().find(|c| c.name == name)
        })
    }

    /// Its text; empty where there is none.
    pub fn text(&self, path: &str) -> String {
        self.at(path)
            .map_or_else(String::new, |node| node.content.clone())
    }

    /// The same without its children of this name.
    pub fn without(mut self, name: &str) -> Self {
        self.children.retain(|child| child.name != name);
        self
    }

    /// The items of a list.
    pub fn items(&self, path: &str) -> &[Self] {
        self.at(path).map_or(&[], |list| &list.children)
    }
}
