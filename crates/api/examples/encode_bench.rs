//! How fast answers are written: `cargo run --release -p boira-api --example encode_bench`.
//!
//! Builds DescribeInstances' tree for 1,000 instances, then writes it whole, in
//! chunks, and from cached instances, and decodes a RunInstances.

use std::hint::black_box;
use std::time::{Duration, Instant};

use boira_api::output::ec2 as out;
use boira_api::shapes::ec2;
use boira_api::{Response, Struct, Value, decode, form, xml};

const INSTANCES: usize = 1000;
const ROUNDS: u32 = 50;

fn main() {
    let operation = ec2::SERVICE
        .operation("DescribeInstances")
        .expect("AWS has it");
    let build = || -> Vec<Value> { (0..INSTANCES).map(reservation).collect() };
    report("build the tree", 0, time(|| drop(black_box(build()))));

    let items = build();
    let answer: Struct = out::DescribeInstancesResult::new()
        .reservations(items.clone())
        .into();
    let whole = boira_api::respond::respond(operation, "2016-11-15", "id", &answer);
    println!("{} bytes for {INSTANCES} instances", whole.len());
    let took = time(|| {
        black_box(boira_api::respond::respond(
            operation,
            "2016-11-15",
            "id",
            &answer,
        ));
    });
    report("write whole", whole.len(), took);
    let write = |items: &[Value]| {
        let mut response = Response::new(operation, "2016-11-15", "id");
        response.begin_list("Reservations");
        for item in items {
            response.item(item);
            if response.pending_bytes() > 64 << 10 {
                black_box(response.take());
            }
        }
        black_box(response.finish());
    };
    report("write in chunks", whole.len(), time(|| write(&items)));
    let shape = ec2::SERVICE.shape("Reservation").expect("AWS has it");
    let cached: Vec<Value> = items
        .iter()
        .map(|item| Value::Raw(xml::encode(shape, item).into()))
        .collect();
    report("write cached", whole.len(), time(|| write(&cached)));
    report("build and write", whole.len(), time(|| write(&build())));

    let query = "Action=RunInstances&Version=2016-11-15&ImageId=ami-0123456789abcdef0&MinCount=1&MaxCount=1\
                 &InstanceType=t3.micro&KeyName=key&SecurityGroupId.1=sg-0123456789abcdef0\
                 &TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name\
                 &TagSpecification.1.Tag.1.Value=web&ClientToken=6b1c2f5e-0000-4000-8000-000000000000";
    let run = ec2::SERVICE.operation("RunInstances").expect("AWS has it");
    let took = time(|| {
        for _ in 0..INSTANCES {
            black_box(decode(run, &form::parse(query.as_bytes()).expect("valid"))).expect("valid");
        }
    });
    println!(
        "{:24} {:8.2} µs each",
        "decode RunInstances",
        took.as_secs_f64() * 1e6 / INSTANCES as f64
    );
}

fn time(mut work: impl FnMut()) -> Duration {
    work();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    start.elapsed() / ROUNDS
}

fn report(what: &str, bytes: usize, took: Duration) {
    let seconds = took.as_secs_f64();
    println!(
        "{what:24} {:8.2} ms {:8.0} MB/s",
        seconds * 1e3,
        bytes as f64 / 1e6 / seconds
    );
}

/// A reservation with one instance as full as Boira's are.
fn reservation(number: usize) -> Value {
    let id = format!("i-{number:017x}");
    let address = format!("172.31.{}.{}", number / 256, number % 256);
    let group = || {
        out::GroupIdentifier::new()
            .group_id("sg-0123456789abcdef0")
            .group_name("default")
    };
    let volume = out::EbsInstanceBlockDevice::new()
        .volume_id(format!("vol-{number:017x}"))
        .status("attached")
        .attach_time(1_440_938_160_000)
        .delete_on_termination(true);
    let attachment = out::InstanceNetworkInterfaceAttachment::new()
        .attachment_id(format!("eni-attach-{number:017x}"))
        .attach_time(1_440_938_160_000)
        .delete_on_termination(true)
        .device_index(0)
        .status("attached");
    let interface = out::InstanceNetworkInterface::new()
        .network_interface_id(format!("eni-{number:017x}"))
        .subnet_id("subnet-0123456789abcdef0")
        .vpc_id("vpc-0123456789abcdef0")
        .owner_id("123456789012")
        .status("in-use")
        .mac_address("02:00:00:00:00:01")
        .private_ip_address(address.clone())
        .source_dest_check(true)
        .groups(vec![group()])
        .attachment(attachment)
        .private_ip_addresses(vec![
            out::InstancePrivateIpAddress::new()
                .primary(true)
                .private_ip_address(address.clone()),
        ]);
    let metadata = out::InstanceMetadataOptionsResponse::new()
        .state("applied")
        .http_tokens("optional")
        .http_put_response_hop_limit(1)
        .http_endpoint("enabled");
    let instance = out::Instance::new()
        .instance_id(id)
        .image_id("ami-0123456789abcdef0")
        .state(out::InstanceState::new().code(16).name("running"))
        .private_dns_name(format!("ip-{}.ec2.internal", address.replace('.', "-")))
        .private_ip_address(address)
        .key_name("key")
        .ami_launch_index(0)
        .instance_type("t3.micro")
        .launch_time(1_440_938_160_000)
        .placement(
            out::Placement::new()
                .availability_zone("us-east-1a")
                .group_name("")
                .tenancy("default"),
        )
        .monitoring(out::Monitoring::new().state("disabled"))
        .subnet_id("subnet-0123456789abcdef0")
        .vpc_id("vpc-0123456789abcdef0")
        .architecture("x86_64")
        .root_device_type("ebs")
        .root_device_name("/dev/sda1")
        .block_device_mappings(vec![
            out::InstanceBlockDeviceMapping::new()
                .device_name("/dev/sda1")
                .ebs(volume),
        ])
        .virtualization_type("hvm")
        .client_token("6b1c2f5e-0000-4000-8000-000000000000")
        .security_groups(vec![group()])
        .source_dest_check(true)
        .hypervisor("xen")
        .network_interfaces(vec![interface])
        .ebs_optimized(false)
        .cpu_options(out::CpuOptions::new().core_count(1).threads_per_core(2))
        .metadata_options(metadata)
        .tags(vec![
            out::Tag::new().key("Name").value(format!("web-{number}")),
        ]);
    let reservation = out::Reservation::new()
        .reservation_id(format!("r-{number:017x}"))
        .owner_id("123456789012")
        .groups(Vec::<Value>::new())
        .instances(vec![instance]);
    Value::from(reservation)
}
