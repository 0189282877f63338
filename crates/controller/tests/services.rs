//! All services answer on one port, each in its own words.

use boira_controller::{Options, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";

fn signed_for(service: &str) -> String {
    format!(
        "x-amz-date: 20150830T000000Z\r\n\
         authorization: AWS4-HMAC-SHA256 Credential=AK/20150830/us-east-1/{service}/aws4_request, \
         SignedHeaders=host;x-amz-date, Signature={:064}\r\n",
        0
    )
}

/// Sends a request of these headers and answers the response as text.
async fn exchange(port: u16, line: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("it listens");
    let request = format!(
        "{line} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it answers");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_by_the_service_that_it_is_for() {
    let home = tempfile::tempdir().expect("a home");
    let any = "127.0.0.1:0".parse().expect("an address");
    let opened = open(Options {
        home: home.path().into(),
        listen: any,
        agents: any,
        s3_domain: None,
    })
    .await
    .expect("it opens");
    let port = opened.options.listen.port();
    tokio::spawn(opened.run(|_| Ok(())));

    let identity = "Action=GetCallerIdentity&Version=2011-06-15";
    let long = "x".repeat((1 << 20) + 1);
    for (line, headers, body, parts) in [
        (
            "POST /",
            format!("{FORM}{}", signed_for("ec2")),
            "Action=DescribeRegions",
            [" 401 ", "<Response><Errors><Error><Code>AuthFailure</Code>"],
        ),
        (
            "POST /",
            format!("{FORM}{}", signed_for("sts")),
            identity,
            [
                " 403 ",
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">",
            ],
        ),
        (
            "POST /",
            format!("{FORM}{}", signed_for("sts")),
            &long,
            [" 413 ", "<ErrorResponse xmlns=\"https://sts"],
        ),
        (
            "POST /services/compute/",
            FORM.to_owned(),
            identity,
            [" 403 ", "<Response><Errors>"],
        ),
        (
            "POST /",
            FORM.to_owned(),
            identity,
            [" 403 ", "<ErrorResponse xmlns=\"https://sts"],
        ),
        (
            "POST /",
            format!("{FORM}{}", signed_for("iam")),
            "Action=ListUsers&Version=2010-05-08",
            [" 400 ", "The service iam is not served by this cloud."],
        ),
        (
            "GET /bucket/key?list-type=2",
            signed_for("s3"),
            "",
            [" 403 ", "<Error><Code>RequestTimeTooSkewed</Code>"],
        ),
        (
            "PUT /bucket/key",
            String::new(),
            "data",
            [" 404 ", "<Code>NoSuchBucket</Code>"],
        ),
        (
            "GET /services/Walrus/bucket",
            String::new(),
            "",
            [" 404 ", "<Code>NoSuchBucket</Code>"],
        ),
        (
            "POST /bucket/key?uploads",
            signed_for("s3"),
            "",
            [" 403 ", "x-amz-request-id: "],
        ),
        (
            "GET /boira/v1/nothing",
            String::new(),
            "",
            [" 404 ", "/boira/v1/nothing"],
        ),
    ] {
        let answer = exchange(port, line, &headers, body).await;
        for part in parts {
            assert!(answer.contains(part), "{line} {headers}: {answer}");
        }
    }
}
