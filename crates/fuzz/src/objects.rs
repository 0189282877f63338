//! Requests of S3 with all their readers behind them: signatures, XML, chunked bodies, forms, policies.
//! Each is signed after it was changed, so that it gets beyond the signature.

use crate::targets::{Message, texts};
use boira_api::sigv4;
use boira_objects::{Cloud, Front, Rules, Settings, Store};
use http_body_util::BodyExt;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use s3s::Body;
use sha2::{Digest, Sha256};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

const KEY: &str = "AKIAFUZZ";
const SECRET: &str = "secret";
/// 2026-11-29T08:00:00Z
const NOW_MS: i64 = 1_795_939_200_000;
const DATE: &str = "20261129T080000Z";
const SCOPE: &str = "20261129/us-east-1/s3/aws4_request";
/// Longer than anything that is small may take.
const TAKES: Duration = Duration::from_secs(20);

struct One;

impl Cloud for One {
    fn find(&self, access_key: &str) -> Option<(String, String)> {
        (access_key == KEY).then(|| ("123456789012".to_owned(), SECRET.to_owned()))
    }

    fn account_of(&self, _: &str) -> Option<String> {
        None
    }

    fn rules(&self) -> Rules {
        Rules::default()
    }
}

struct Here {
    runtime: tokio::runtime::Runtime,
    front: Front,
    _folder: tempfile::TempDir,
}

static HERE: LazyLock<Here> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder of its own");
    let settings = Settings {
        region: "us-east-1".into(),
        endpoint: "http://here".into(),
        master_key: None,
    };
    let guard = runtime.enter();
    let store = Store::open(
        &folder.path().join("objects"),
        settings,
        Arc::new(One),
        Arc::new(|| NOW_MS),
    );
    let front = Front::new(&store.expect("a new store"));
    drop(guard);
    Here {
        runtime,
        front,
        _folder: folder,
    }
});

/// Asks one request, and wants an answer that isn't the server's fault.
pub fn ask(input: &[u8]) {
    let message = Message::read(input);
    let Some(request) = request(&message) else {
        return;
    };
    let here = &*HERE;
    here.runtime.block_on(async {
        let create = "PUT /fuzz HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n";
        let create = request_of(create.as_bytes());
        here.front.call(create, "0123456789ABCDEF").await;
        let answered = async {
            let answer = here.front.call(request, "0123456789ABCDEF").await;
            let (parts, body) = answer.into_parts();
            let text = body.collect().await.map(|text| text.to_bytes());
            (parts.status, text.unwrap_or_default())
        };
        let (status, text) = tokio::time::timeout(TAKES, answered)
            .await
            .expect("an answer in time");
        let text = String::from_utf8_lossy(&text);
        assert_ne!(status.as_u16(), 500, "the server is at fault: {text}");
    });
}

fn request_of(input: &[u8]) -> Request<Body> {
    request(&Message::read(input)).expect("a request")
}

fn request(message: &Message<'_>) -> Option<Request<Body>> {
    let method = Method::from_bytes(message.method.as_bytes()).ok()?;
    let target = match message.query.is_empty() {
        true => message.path.to_string(),
        false => format!("{}?{}", message.path, message.query),
    };
    let uri: Uri = target.parse().ok()?;
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in &message.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request = request.header(name, HeaderValue::from_bytes(value).ok()?);
    }
    let body = Body::from(bytes::Bytes::copy_from_slice(message.body));
    let mut request = request.body(body).ok()?;
    let signed =
        request.headers().contains_key("authorization") || message.query.contains("ignature");
    let form = request.headers().get("content-type");
    let form = form.is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/"));
    if !signed && !form {
        sign(&mut request, message.body);
    }
    Some(request)
}

/// AWS Signature Version 4 of all that has to be signed, over the path as it is.
fn sign(request: &mut Request<Body>, body: &[u8]) {
    let plain = HeaderValue::from_str(&hex::encode(Sha256::digest(body))).expect("digits");
    let headers = request.headers_mut();
    let hash = headers
        .entry("x-amz-content-sha256")
        .or_insert(plain)
        .clone();
    headers.insert("x-amz-date", HeaderValue::from_static(DATE));
    let mut names: Vec<String> = headers.keys().map(|name| name.to_string()).collect();
    names.retain(|name| name == "host" || name.starts_with("x-amz-"));
    names.sort();
    let lines: String = names
        .iter()
        .map(|name| {
            let value = String::from_utf8_lossy(headers[name].as_bytes()).into_owned();
            format!(
                "{name}:{}\n",
                value.split_whitespace().collect::<Vec<_>>().join(" ")
            )
        })
        .collect();
    let mut query: Vec<String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| match part.contains('=') {
            true => part.to_owned(),
            false => format!("{part}="),
        })
        .collect();
    query.sort();
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{}\n{}",
        request.method(),
        request.uri().path(),
        query.join("&"),
        names.join(";"),
        String::from_utf8_lossy(hash.as_bytes())
    );
    let credential = format!("{KEY}/{SCOPE}");
    let scope = sigv4::parse_credential(&credential).expect("a credential");
    let signature = sigv4::signature(SECRET, &scope, NOW_MS, canonical.as_bytes());
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={}, Signature={}",
        names.join(";"),
        hex::encode(signature)
    );
    if let Ok(value) = HeaderValue::from_str(&authorization) {
        request.headers_mut().insert("authorization", value);
    }
}

pub fn requests() -> Vec<Vec<u8>> {
    let xml = |query: &str, body: &str| {
        format!(
            "PUT /fuzz?{query} HTTP/1.1\r\nhost: here\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let chunks = "4\r\nabcd\r\n3\r\nefg\r\n0\r\nx-amz-checksum-crc32:MSpPFw==\r\n\r\n";
    let all = [
        xml("tagging", "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"),
        xml("versioning", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"),
        xml("lifecycle", "<LifecycleConfiguration><Rule><Status>Enabled</Status><Filter><And><Prefix>a</Prefix><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter><Expiration><Days>1</Days></Expiration><Transition><Days>30</Days><StorageClass>STANDARD_IA</StorageClass></Transition></Rule></LifecycleConfiguration>"),
        xml("cors", "<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>"),
        xml("acl", "<AccessControlPolicy><Owner><ID>x</ID></Owner><AccessControlList><Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"Group\"><URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee><Permission>READ</Permission></Grant></AccessControlList></AccessControlPolicy>"),
        xml("encryption", "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"),
        xml("object-lock", "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>"),
        xml("policy", "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"s3:GetObject\",\"Resource\":\"arn:aws:s3:::fuzz/*\",\"Condition\":{\"IpAddress\":{\"aws:SourceIp\":\"10.0.0.0/8\"}}}]}"),
        xml("publicAccessBlock", "<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls></PublicAccessBlockConfiguration>"),
        "POST /fuzz?delete HTTP/1.1\r\nhost: here\r\n\r\n<Delete><Object><Key>a</Key></Object><Quiet>true</Quiet></Delete>".to_owned(),
        "POST /fuzz/k?uploadId=x HTTP/1.1\r\nhost: here\r\n\r\n<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"x\"</ETag></Part></CompleteMultipartUpload>".to_owned(),
        format!("PUT /fuzz/k HTTP/1.1\r\nhost: here\r\ncontent-encoding: aws-chunked\r\nx-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\nx-amz-decoded-content-length: 7\r\nx-amz-trailer: x-amz-checksum-crc32\r\ncontent-length: {}\r\n\r\n{chunks}", chunks.len()),
        "PUT /fuzz/k HTTP/1.1\r\nhost: here\r\ncontent-encoding: aws-chunked\r\nx-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\nx-amz-decoded-content-length: 4\r\ncontent-length: 90\r\n\r\n4;chunk-signature=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nabcd\r\n0;chunk-signature=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n".to_owned(),
        "PUT /fuzz/k HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\nx-amz-meta-a: b\r\nx-amz-tagging: a=b&c=d\r\nx-amz-storage-class: STANDARD_IA\r\nx-amz-acl: private\r\n\r\nabcd".to_owned(),
        "GET /fuzz/k?partNumber=1&response-content-type=a HTTP/1.1\r\nhost: here\r\nrange: bytes=0-1\r\nif-none-match: \"x\"\r\nif-modified-since: Sun, 29 Nov 2026 08:00:00 GMT\r\n\r\n".to_owned(),
        "GET /fuzz?list-type=2&prefix=a&delimiter=/&max-keys=5&continuation-token=eA&encoding-type=url HTTP/1.1\r\nhost: here\r\n\r\n".to_owned(),
        "GET /fuzz?versions&key-marker=a&version-id-marker=null&max-keys=2 HTTP/1.1\r\nhost: here\r\n\r\n".to_owned(),
        "PUT /fuzz/copy HTTP/1.1\r\nhost: here\r\nx-amz-copy-source: /fuzz/k?versionId=null\r\nx-amz-metadata-directive: REPLACE\r\nx-amz-copy-source-if-match: \"x\"\r\n\r\n".to_owned(),
        "POST /fuzz HTTP/1.1\r\nhost: here\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: 400\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nup/${filename}\r\n--b\r\nContent-Disposition: form-data; name=\"policy\"\r\n\r\neyJleHBpcmF0aW9uIjoiMjAyNi0xMS0yOVQwOTowMDowMFoiLCJjb25kaXRpb25zIjpbXX0=\r\n--b\r\nContent-Disposition: form-data; name=\"AWSAccessKeyId\"\r\n\r\nAKIAFUZZ\r\n--b\r\nContent-Disposition: form-data; name=\"signature\"\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nbytes\r\n--b--\r\n".to_owned(),
        "GET /services/Walrus/fuzz/k HTTP/1.1\r\nhost: here\r\nauthorization: AWS AKIAFUZZ:x\r\ndate: Sun, 29 Nov 2026 08:00:00 GMT\r\n\r\n".to_owned(),
        "GET /fuzz/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAFUZZ%2F20261129%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20261129T080000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=x HTTP/1.1\r\nhost: here\r\n\r\n".to_owned(),
    ];
    texts(&all.iter().map(String::as_str).collect::<Vec<_>>())
}
