//! Requests that no client of AWS would send, against the real server: each gets an error of AWS's
//! kind, none changes anything, none ends or blocks the server.

use crate::support::api::Answer;
use crate::support::{Api, Cloud};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a client may take to send its headers, or its body, and some slack.
const SLOW: Duration = Duration::from_secs(30 + 15);

#[test]
fn hostile_requests_get_errors_and_change_nothing() {
    let cloud = Cloud::start();
    let api = cloud.api();
    let controller = cloud.process("controller");
    let before = everything(&api);
    // They take half a minute to be thrown out; the rest happens meanwhile.
    let slow = SlowClients::connect(&api);

    malformed_forms_are_refused(&api);
    mutated_forms_never_break_it(&api);
    huge_requests_are_cut_off(&api);
    what_is_no_http_is_closed(&api);
    its_own_api_is_as_strict(&api);

    slow.are_thrown_out();
    assert_eq!(everything(&api), before, "what is refused changes nothing");
    assert_eq!(
        cloud.process("controller"),
        controller,
        "the same process all along"
    );
    let resident = resident_kib(controller.pid);
    assert!(
        resident < 256 << 10,
        "the controller has {resident} KiB after this"
    );
    cloud.never_panicked();
}

fn everything(api: &Api) -> Vec<String> {
    [
        "Instances",
        "SecurityGroups",
        "KeyPairs",
        "Images",
        "Volumes",
        "Tags",
    ]
    .iter()
    .map(|kind| {
        format!(
            "{:?}",
            api.call(&format!("Describe{kind}"), &[])
                .without("requestId")
        )
    })
    .collect()
}

fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("it has memory");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

/// The error's code; panics where the answer is no error of AWS's kind.
#[track_caller]
fn code(answer: &Answer) -> String {
    assert!((400..500).contains(&answer.status), "{answer:?}");
    let code = answer
        .body
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    code.unwrap_or_else(|| panic!("no error code in {answer:?}"))
        .0
        .to_owned()
}

fn malformed_forms_are_refused(api: &Api) {
    let send = |form: &[u8]| api.exchange(&api.signed(form)).expect("an answer");
    let describe = "Action=DescribeInstances&Version=2016-11-15";
    let long = "x".repeat(900_000);
    for (form, expected) in [
        (
            format!("{describe}&Filter.1.Name=%zz"),
            "MalformedQueryString",
        ),
        (
            format!("{describe}&Filter.1.Name=%ff%fe"),
            "MalformedQueryString",
        ),
        (format!("{describe}&Frobnicate=1"), "UnknownParameter"),
        (format!("{describe}&InstanceId.x=i-1"), "UnknownParameter"),
        (
            format!("{describe}&MaxResults=many"),
            "InvalidParameterValue",
        ),
        (
            format!("{describe}&MaxResults=99999999999999999999"),
            "InvalidParameterValue",
        ),
        (format!("{describe}&MaxResults=-5"), "InvalidParameterValue"),
        (
            format!("{describe}&DryRun=perhaps"),
            "InvalidParameterValue",
        ),
        (format!("{describe}&NextToken=forged"), "InvalidNextToken"),
        (
            format!("{describe}&InstanceId.1={long}"),
            "InvalidInstanceID.Malformed",
        ),
        ("Version=2016-11-15".to_owned(), "MissingAction"),
        (
            "Action=Frobnicate&Version=2016-11-15".to_owned(),
            "InvalidAction",
        ),
        (
            "Action=DescribeInstances&Version=yesterday".to_owned(),
            "NoSuchVersion",
        ),
        (
            "Action=CreateVpnGateway&Version=2016-11-15&Type=ipsec.1".to_owned(),
            "UnsupportedOperation",
        ),
        (
            "Action=RunInstances&Version=2016-11-15".to_owned(),
            "MissingParameter",
        ),
        (
            "Action=TerminateInstances&Version=2016-11-15&InstanceId.1=x%00y".to_owned(),
            "InvalidInstanceID.Malformed",
        ),
    ] {
        let answer = send(form.as_bytes());
        let shown: String = form.chars().take(120).collect();
        assert_eq!(code(&answer), expected, "{shown}");
    }
    for form in [
        b"Action=DescribeInstances&Version=2016-11-15&\xff\xfe=1".to_vec(),
        format!("{describe}&Filter.99999999999.Name=x").into_bytes(),
        format!("{describe}{}", "&InstanceId.1=i-1".repeat(30_000)).into_bytes(),
        format!("{describe}&{}=1", "Filter.1.".repeat(10_000)).into_bytes(),
    ] {
        code(&send(&form));
    }
    let unsigned = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{describe}",
        describe.len()
    );
    let answer = api.exchange(unsigned.as_bytes()).expect("an answer");
    assert_eq!(
        (answer.status, code(&answer).as_str()),
        (403, "MissingAuthenticationToken")
    );
}

/// Bytes of valid requests are changed before they are signed.
fn mutated_forms_never_break_it(api: &Api) {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let forms = [
        "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag:Name&Filter.1.Value.1=a*&MaxResults=7",
        "Action=RunInstances&Version=2016-11-15&ImageId=ami-0123456789abcdef0&MinCount=1&MaxCount=1&UserData=aGk%3D&BlockDeviceMapping.1.DeviceName=/dev/vda&BlockDeviceMapping.1.Ebs.VolumeSize=2",
        "Action=AuthorizeSecurityGroupIngress&Version=2016-11-15&GroupId=sg-0123456789abcdef0&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=1&IpPermissions.1.ToPort=2&IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0/8",
        "Action=CreateTags&Version=2016-11-15&ResourceId.1=i-0123456789abcdef0&Tag.1.Key=a&Tag.1.Value=b",
    ];
    for _ in 0..400 {
        let mut form = forms[random.random_range(0..forms.len())]
            .as_bytes()
            .to_vec();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..form.len());
            match random.random_range(0..4) {
                0 => form[at] = random.random(),
                1 => drop(form.remove(at)),
                2 => form.insert(at, b"&=.%0123456789-/"[random.random_range(0..16)]),
                _ => {
                    let piece = form[at..].to_vec();
                    form.extend_from_slice(&piece);
                }
            }
        }
        let answer = api.exchange(&api.signed(&form)).expect("an answer");
        let shown = String::from_utf8_lossy(&form).into_owned();
        assert!(answer.status < 500, "{shown}: {answer:?}");
        assert!(answer.body.contains('<'), "{shown}: {answer:?}");
    }
}

fn huge_requests_are_cut_off(api: &Api) {
    let begun = Instant::now();
    let mut stream = api.connect().expect("a connection");
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: 1000000000000\r\n\r\n";
    stream
        .write_all(head.as_bytes())
        .expect("the head is taken");
    // A server that took all of it would take for ever.
    let chunk = vec![b'x'; 1 << 20];
    let sent = (0..1000)
        .take_while(|_| stream.write_all(&chunk).is_ok())
        .count();
    assert!(sent < 1000, "it took {sent} MiB of a form");
    let mut text = String::new();
    // The answer may be lost where the server closes while the client still sends.
    let _ = stream.read_to_string(&mut text);
    assert!(
        text.is_empty() || text.contains("RequestEntityTooLarge"),
        "{text}"
    );

    let body = vec![b'x'; (1 << 20) + 1];
    let answer = api.exchange(&api.signed(&body)).expect("an answer");
    assert_eq!(
        (answer.status, code(&answer).as_str()),
        (413, "RequestEntityTooLarge")
    );

    let header = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
        "y".repeat(1 << 20)
    );
    closed_or_refused(api, header.as_bytes());
    let many = format!(
        "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "x-many: 1\r\n".repeat(5_000)
    );
    closed_or_refused(api, many.as_bytes());
    assert!(
        begun.elapsed() < SLOW,
        "cut off only after {:?}",
        begun.elapsed()
    );
}

fn what_is_no_http_is_closed(api: &Api) {
    for bytes in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        // The beginning of a TLS handshake, and nonsense.
        b"\x16\x03\x01\x02\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        // HTTP/2's preface, and nonsense.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        closed_or_refused(api, bytes);
    }
}

/// The server closes the connection, with or without an error of the client's.
#[track_caller]
fn closed_or_refused(api: &Api, bytes: &[u8]) {
    let mut stream = api.connect().expect("a connection");
    // A server that refuses early closes before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let timed_out = read
        .as_ref()
        .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out, "kept open");
    let text = String::from_utf8_lossy(&answer);
    let fine = !text.starts_with("HTTP/")
        || text.starts_with("HTTP/1.1 4")
        || text.starts_with("HTTP/1.0 4");
    assert!(fine, "{text}");
}

/// Boira's own API, without a signature and with one of another service.
fn its_own_api_is_as_strict(api: &Api) {
    for (method, path) in [
        ("GET", "/boira/v1/status"),
        ("GET", "/boira/v1/hosts"),
        ("POST", "/boira/v1/accounts"),
        ("DELETE", "/boira/v1/accounts/admin"),
        (
            "PUT",
            "/boira/v1/blobs/0000000000000000000000000000000000000000000000000000000000000000",
        ),
        ("PUT", "/boira/v1/blobs/..%2f..%2f..%2fetc%2fpasswd"),
        ("GET", "/boira/v1/instances/..%2f..%2fx/history"),
        ("GET", "/boira/v1/nothing"),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        let answer = api.exchange(request.as_bytes()).expect("an answer");
        assert!(
            (400..500).contains(&answer.status),
            "{method} {path}: {answer:?}"
        );
        assert!(!answer.body.contains("secret"), "{answer:?}");
    }
}

/// Clients that begin and don't go on.
struct SlowClients {
    begun: Instant,
    streams: Vec<TcpStream>,
}

impl SlowClients {
    fn connect(api: &Api) -> Self {
        let starts: [&[u8]; 4] = [
            b"",
            b"GET / HT",
            b"POST / HTTP/1.1\r\nhost: x\r\nx-header: ",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nAction=",
        ];
        let streams = (0..200)
            .map(|index| {
                let mut stream = api.connect().expect("a connection");
                stream
                    .write_all(starts[index % starts.len()])
                    .expect("a beginning is taken");
                stream
            })
            .collect();
        let begun = Instant::now();
        api.call("DescribeInstances", &[]);
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(2),
            "others wait {took:?} for slow clients"
        );
        Self { begun, streams }
    }

    fn are_thrown_out(self) {
        for mut stream in self.streams {
            let left = SLOW
                .saturating_sub(self.begun.elapsed())
                .max(Duration::from_millis(1));
            stream.set_read_timeout(Some(left)).expect("a time");
            let mut text = Vec::new();
            let read = stream.read_to_end(&mut text);
            let kept = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            let text = String::from_utf8_lossy(&text);
            assert!(
                !kept || text.contains("408"),
                "kept after {:?}: {text}",
                self.begun.elapsed()
            );
        }
    }
}
