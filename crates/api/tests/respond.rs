//! What answers look like on the wire.

use std::sync::Arc;

use boira_api::respond::{accepted_version, respond};
use boira_api::shapes::{ec2, sts};
use boira_api::{Operation, Response, Service, Struct, Value, xml};

fn operation(service: &'static Service, name: &str) -> &'static Operation {
    service.operation(name).expect("AWS has the operation")
}

fn structure(name: &str) -> Struct {
    Struct::new(ec2::SERVICE.shape(name).expect("AWS has the shape"))
}

fn text(xml: Vec<u8>) -> String {
    String::from_utf8(xml).expect("XML is UTF-8")
}

fn instance(id: &'static str) -> Struct {
    structure("Instance")
        .with("InstanceId", id)
        .with("LaunchTime", Value::Timestamp(1_440_938_160_000))
        .with("EbsOptimized", false)
        .with("PublicIpAddress", None::<String>)
        .with(
            "State",
            structure("InstanceState")
                .with("Code", 16)
                .with("Name", "running"),
        )
        .with("SecurityGroups", Vec::<Value>::new())
}

#[test]
fn ec2_answers_name_the_clients_version_and_the_request() {
    let reservation = structure("Reservation")
        .with("ReservationId", "r-1")
        .with("Instances", vec![instance("i-1")]);
    let answer = structure("DescribeInstancesResult").with("Reservations", vec![reservation]);
    assert_eq!(
        text(respond(
            operation(&ec2::SERVICE, "DescribeInstances"),
            "2012-03-01",
            "req",
            &answer
        )),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2012-03-01/\"><requestId>req</requestId>\
         <reservationSet><item><reservationId>r-1</reservationId><instancesSet><item>\
         <instanceId>i-1</instanceId><launchTime>2015-08-30T12:36:00.000Z</launchTime>\
         <ebsOptimized>false</ebsOptimized>\
         <instanceState><code>16</code><name>running</name></instanceState><groupSet></groupSet>\
         </item></instancesSet></item></reservationSet></DescribeInstancesResponse>"
    );
}

#[test]
fn an_ec2_operation_without_an_answer_says_that_it_was_done() {
    let operation = operation(&ec2::SERVICE, "CreateTags");
    assert!(operation.output().is_none());
    assert!(
        text(Response::new(operation, "2016-11-15", "req").finish())
            .ends_with("<requestId>req</requestId><return>true</return></CreateTagsResponse>")
    );
}

#[test]
fn query_answers_wrap_the_result() {
    let shape = sts::SERVICE
        .shape("GetCallerIdentityResponse")
        .expect("AWS has the shape");
    let answer = Struct::new(shape)
        .with("Account", "123456789012".to_owned())
        .with("UserId", "a&b");
    assert_eq!(
        text(respond(
            operation(&sts::SERVICE, "GetCallerIdentity"),
            "2011-06-15",
            "req",
            &answer
        )),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <Account>123456789012</Account><UserId>a&amp;b</UserId></GetCallerIdentityResult>\
         <ResponseMetadata><RequestId>req</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    );
}

#[test]
fn an_answer_in_pieces_is_the_answer_at_once() {
    let operation = operation(&ec2::SERVICE, "DescribeInstances");
    let reservation = |id: &'static str| {
        Value::from(
            structure("Reservation")
                .with("ReservationId", id)
                .with("Instances", vec![instance(id)]),
        )
    };
    let items: Vec<Value> = ["a", "b", "c"].map(reservation).into();
    let whole = structure("DescribeInstancesResult")
        .with("Reservations", items.clone())
        .with("NextToken", "t");
    let whole = respond(operation, "2016-11-15", "req", &whole);

    let mut pieces = Vec::new();
    let mut response = Response::new(operation, "2016-11-15", "req");
    response.begin_list("Reservations");
    for item in &items {
        response.item(item);
        assert!(response.pending_bytes() > 0);
        pieces.extend(response.take());
    }
    response.end_list();
    response.member("NextToken", "t");
    pieces.extend(response.finish());
    assert_eq!(text(pieces), text(whole));
}

/// boto 2 takes the end of an inner item for the end of the outer one.
#[test]
fn lists_come_after_what_is_simple() {
    let operation = operation(&ec2::SERVICE, "DescribeVpcs");
    let block = structure("VpcCidrBlockAssociation").with("AssociationId", "a");
    let vpc = structure("Vpc")
        .with("CidrBlockAssociationSet", vec![Value::from(block)])
        .with("VpcId", "vpc-1");
    let answer = structure("DescribeVpcsResult").with("Vpcs", vec![Value::from(vpc)]);
    let said = text(respond(operation, "2014-10-01", "req", &answer));
    let start = "<item><vpcId>vpc-1</vpcId><cidrBlockAssociationSet>";
    assert!(said.contains(start), "{said}");
}

#[test]
fn cached_subtrees_write_the_same() {
    let operation = operation(&ec2::SERVICE, "DescribeInstances");
    let reservation = |instance: Value| {
        let reservation = structure("Reservation").with("Instances", vec![instance]);
        respond(
            operation,
            "v",
            "r",
            &structure("DescribeInstancesResult").with("Reservations", vec![reservation]),
        )
    };
    let plain = Value::from(instance("i-1"));
    let shape = ec2::SERVICE.shape("Instance").expect("AWS has the shape");
    let raw = Value::Raw(xml::encode(shape, &plain).into());
    let shared = Value::from(Arc::new(plain.clone()));
    assert_eq!(reservation(raw), reservation(plain.clone()));
    assert_eq!(reservation(shared), reservation(plain));
}

#[test]
fn ec2_has_every_version_from_2009_on_and_the_others_have_one() {
    let regions = ec2::SERVICE
        .operation("DescribeRegions")
        .expect("AWS has it");
    for version in ["2009-11-30", "2016-11-15", "2031-01-01"] {
        assert_eq!(accepted_version(regions, version).ok(), Some(version));
    }
    for version in [
        "2008-12-01",
        "",
        "2016",
        "2016-11-15\"><x",
        "20161115ab",
        "2016/11/15",
    ] {
        assert_eq!(
            accepted_version(regions, version).expect_err(version).code,
            "NoSuchVersion"
        );
    }
    let identity = sts::SERVICE
        .operation("GetCallerIdentity")
        .expect("AWS has it");
    assert!(accepted_version(identity, "2011-06-15").is_ok());
    let error = accepted_version(identity, "2016-11-15").expect_err("EC2's");
    assert_eq!(error.code, "InvalidAction");
    assert_eq!(
        error.message,
        "Could not find operation GetCallerIdentity for version 2016-11-15"
    );
}
