//! The targets. Those that read requests take them as HTTP/1.1 has them.

use crate::{Target, objects};
use boira_api::auth::{self, Demands, RequestHead};
use boira_api::{decode, form, shapes};
use boira_network::metadata::{self, Tokens};
use boira_network::{Mac, MetadataSpec, PortSpec, SubnetSpec, VpcSpec};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::net::Ipv4Addr;

pub const TARGETS: &[Target] = &[
    Target {
        name: "decoder",
        run: decoder,
        corpus: forms,
        words: &[
            b"&",
            b"=",
            b".",
            b"%",
            b"%00",
            b"%ff",
            b".1",
            b".0",
            b".99999999999",
            b"Filter.1.Name",
            b"Value",
            b"DryRun=true",
            b"Action=",
            b"-1",
            b"18446744073709551616",
        ],
    },
    Target {
        name: "signature",
        run: signature,
        corpus: signed,
        words: &[
            b"Credential=",
            b"SignedHeaders=",
            b"Signature=",
            b"AWS4-HMAC-SHA256",
            b"/",
            b",",
            b";",
            b"X-Amz-Algorithm=AWS4-HMAC-SHA256",
            b"X-Amz-Expires=",
            b"aws4_request",
            b"\r\n",
            b"%2F",
            b"20261124T120000Z",
            b"SignatureVersion=2",
            b"host: ",
            b"x-amz-date: ",
        ],
    },
    Target {
        name: "metadata",
        run: metadata_server,
        corpus: questions,
        words: &[
            b"/latest",
            b"/meta-data",
            b"/dynamic",
            b"/api/token",
            b"/..",
            b"//",
            b"%2e",
            b"?",
            b"PUT",
            b"HEAD",
            b"x-aws-ec2-metadata-token: ",
            b"x-forwarded-for: 1",
            b"\r\n",
            b"public-keys/0",
        ],
    },
    Target {
        name: "s3",
        run: objects::ask,
        corpus: objects::requests,
        words: &[
            b"<",
            b">",
            b"</",
            b"&amp;",
            b"&#x41;",
            b"<!DOCTYPE a [<!ENTITY b \"c\">]>",
            b"&b;",
            b"<![CDATA[",
            b"<!--",
            b"\r\n",
            b"0\r\n",
            b"ffffffffffffffff\r\n",
            b"-1",
            b"18446744073709551616",
            b"%2e%2e/",
            b"../",
            b"%00",
            b"x-amz-",
            b"x-amz-server-side-encryption: AES256\r\n",
            b"--b\r\n",
            b"${filename}",
            b"9999-99-99T99:99:99Z",
        ],
    },
    Target {
        name: "image",
        run: |input| drop(boira_images::inspect(&mut std::io::Cursor::new(input))),
        corpus: images,
        words: &[
            b"QFI\xfb",
            b"\0\0\0\x03",
            b"\0\0\0\0\0\0\0\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x55\xaa",
            b"EFI PART",
            b"\0\0\0\0\0\x01\0\0",
        ],
    },
];

/// A request taken apart as far as HTTP goes.
pub struct Message<'i> {
    pub method: Cow<'i, str>,
    pub path: Cow<'i, str>,
    pub query: Cow<'i, str>,
    pub headers: Vec<(Cow<'i, str>, &'i [u8])>,
    pub body: &'i [u8],
}

impl<'i> Message<'i> {
    pub fn read(input: &'i [u8]) -> Self {
        let (line, mut rest) = cut(input, b"\r\n");
        let (method, target) = cut(line, b" ");
        let (target, _) = cut(target, b" ");
        let (path, query) = cut(target, b"?");
        let mut headers = Vec::new();
        loop {
            let (header, after) = cut(rest, b"\r\n");
            rest = after;
            if header.is_empty() {
                break;
            }
            let (name, value) = cut(header, b": ");
            headers.push((String::from_utf8_lossy(name), value));
        }
        Message {
            method: String::from_utf8_lossy(method),
            path: String::from_utf8_lossy(path),
            query: String::from_utf8_lossy(query),
            headers,
            body: rest,
        }
    }
}

/// What is before and after the first `mark`.
fn cut<'i>(input: &'i [u8], mark: &[u8]) -> (&'i [u8], &'i [u8]) {
    let found = input.windows(mark.len()).position(|window| window == mark);
    match found {
        Some(at) => (&input[..at], &input[at + mark.len()..]),
        None => (input, &[]),
    }
}

/// A form as it arrives: taken apart, authenticated and decoded by its action's shape.
fn decoder(input: &[u8]) {
    let Ok(parameters) = form::parse(input) else {
        return;
    };
    let head = RequestHead {
        method: "POST",
        path: "/",
        query: "",
        headers: &[],
        parameters: &parameters,
    };
    verify(&head, input);
    let action = form::get(&parameters, "Action").unwrap_or("DescribeInstances");
    for service in [&shapes::ec2::SERVICE, &shapes::sts::SERVICE] {
        if let Ok(operation) = service.operation(action) {
            // Refusing is an answer as good as any.
            let _ = decode::decode(operation, &parameters);
        }
    }
}

fn signature(input: &[u8]) {
    let message = Message::read(input);
    let Ok(parameters) = form::parse(message.query.as_bytes()) else {
        return;
    };
    let headers: Vec<(&str, &[u8])> = message
        .headers
        .iter()
        .map(|(name, value)| (&**name, *value))
        .collect();
    let head = RequestHead {
        method: &message.method,
        path: &message.path,
        query: &message.query,
        headers: &headers,
        parameters: &parameters,
    };
    verify(&head, message.body);
}

fn verify(head: &RequestHead<'_>, body: &[u8]) {
    let Ok(claim) = auth::parse(head) else {
        return;
    };
    let demands = Demands {
        service: claim.service().unwrap_or("ec2"),
        regions: &["us-east-1"],
        max_skew_ms: i64::MAX,
    };
    let digest = Sha256::digest(body).into();
    let proven = claim.verify("secret", head, &digest, &demands, 1_795_521_600_000);
    assert!(proven.is_err(), "nobody here knows the secret");
}

fn metadata_server(input: &[u8]) {
    let message = Message::read(input);
    let Ok(method) = hyper::Method::from_bytes(message.method.as_bytes()) else {
        return;
    };
    let headers: HeaderMap = message
        .headers
        .iter()
        .filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value).ok()?))
        })
        .collect();
    let spec = vpc();
    let request = metadata::Request {
        method: &method,
        path: &message.path,
        headers: &headers,
        now_s: 100,
        nonce: 1,
    };
    let answer = metadata::answer(&spec, &spec.ports[0], &Tokens::new([7; 32]), &request);
    let is_token = method == hyper::Method::PUT && answer.response.status() == 200;
    assert_eq!(answer.hop_limit.is_some(), is_token);
}

pub fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn forms() -> Vec<Vec<u8>> {
    texts(&[
        "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag:Name&Filter.1.Value.1=a*&MaxResults=7",
        "Action=RunInstances&Version=2016-11-15&ImageId=ami-0123456789abcdef0&MinCount=1&MaxCount=1&UserData=aGk%3D&BlockDeviceMapping.1.DeviceName=/dev/vda&BlockDeviceMapping.1.Ebs.VolumeSize=2",
        "Action=AuthorizeSecurityGroupIngress&Version=2016-11-15&GroupId=sg-0123456789abcdef0&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=1&IpPermissions.1.ToPort=2&IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0/8",
        "Action=CreateTags&Version=2016-11-15&ResourceId.1=i-0123456789abcdef0&Tag.1.Key=a&Tag.1.Value=b",
        "Action=GetCallerIdentity&Version=2011-06-15",
    ])
}

fn signed() -> Vec<Vec<u8>> {
    texts(&[
        "POST / HTTP/1.1\r\nhost: x\r\nx-amz-date: 20261124T120000Z\r\nauthorization: AWS4-HMAC-SHA256 Credential=AKIA/20261124/us-east-1/ec2/aws4_request, SignedHeaders=host;x-amz-date, Signature=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\nAction=DescribeInstances",
        "GET /?Action=DescribeInstances&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20261124%2Fus-east-1%2Fec2%2Faws4_request&X-Amz-Date=20261124T120000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /?Action=DescribeInstances&AWSAccessKeyId=AKIA&SignatureVersion=2&SignatureMethod=HmacSHA256&Timestamp=2026-11-24T12%3A00%3A00Z&Signature=aaaa HTTP/1.1\r\nhost: x\r\n\r\n",
    ])
}

fn questions() -> Vec<Vec<u8>> {
    texts(&[
        "GET /latest/meta-data/public-keys/0/openssh-key HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /latest/dynamic/instance-identity/document HTTP/1.1\r\nhost: x\r\nx-aws-ec2-metadata-token: abc\r\n\r\n",
        "GET /latest/meta-data/network/interfaces/macs/02:00:00:00:00:01/ HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /2009-04-04/user-data HTTP/1.1\r\nhost: x\r\n\r\n",
        "PUT /latest/api/token HTTP/1.1\r\nhost: x\r\nx-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    ])
}

/// The head of a qcow2 image of version 3 with a first-level table, and a disk with a boot sector.
fn images() -> Vec<Vec<u8>> {
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_be_bytes()).collect() };
    let mut qcow2 = b"QFI\xfb".to_vec();
    // Version, backing file (offset, size), cluster bits, size, encryption, first-level table (size,
    // offset), reference counts (offset, clusters), snapshots (number, offset), features, order, length.
    qcow2.extend(words(&[3, 0, 0, 0, 16, 0, 1 << 30, 0]));
    qcow2.extend(words(&[2, 0, 3 << 16, 0, 1 << 16, 1, 0, 0, 0]));
    qcow2.extend(words(&[0, 0, 0, 0, 0, 0, 4, 104]));
    qcow2.resize(512, 0);
    let mut raw = vec![0; 1024];
    raw[510..512].copy_from_slice(&[0x55, 0xaa]);
    vec![qcow2, raw]
}

fn vpc() -> VpcSpec {
    let net = |text: &str| text.parse::<ipnet::Ipv4Net>().expect("a network");
    VpcSpec {
        vpc: "vpc-1".to_owned(),
        cidr: net("172.31.0.0/16"),
        subnets: vec![SubnetSpec {
            subnet: "subnet-1".to_owned(),
            cidr: net("172.31.0.0/20"),
            gateway: Ipv4Addr::new(172, 31, 0, 1),
        }],
        mtu: 1450,
        overlay: None,
        domain: "ec2.internal".to_owned(),
        standby: Vec::new(),
        ports: vec![PortSpec {
            eni: "eni-1".to_owned(),
            instance: "i-1".to_owned(),
            device_index: 0,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            ip: Ipv4Addr::new(172, 31, 0, 11),
            public_ip: None,
            subnet: "subnet-1".to_owned(),
            hostname: "ip-172-31-0-11".to_owned(),
            groups: Vec::new(),
            source_dest_check: true,
            metadata: facts(),
        }],
        groups: Vec::new(),
        api: None,
        way_out: true,
        resolvers: None,
    }
}

fn facts() -> MetadataSpec {
    MetadataSpec {
        ami_id: "ami-1".to_owned(),
        ami_launch_index: 0,
        instance_type: "m1.small".to_owned(),
        reservation_id: "r-1".to_owned(),
        account: "123456789012".to_owned(),
        region: "us-east-1".to_owned(),
        availability_zone: "us-east-1a".to_owned(),
        availability_zone_id: "use1-az1".to_owned(),
        launch_time: "2026-01-01T00:00:00Z".to_owned(),
        architecture: "x86_64".to_owned(),
        public_keys: vec![("my key".to_owned(), "ssh-ed25519 AAAA me".to_owned())],
        user_data: Some(b"#!/bin/sh\n\0\xff".to_vec()),
        security_groups: vec!["web".to_owned()],
        tags: Some([("Name".to_owned(), "one".to_owned())].into()),
        block_devices: [("ami".to_owned(), "/dev/vda".to_owned())].into(),
        endpoint_enabled: true,
        tokens_required: false,
        hop_limit: 2,
        monitoring: true,
        identity_document: "{}".to_owned(),
        identity_signature: "c2ln".to_owned(),
        identity_pkcs7: None,
        identity_rsa2048: None,
    }
}
