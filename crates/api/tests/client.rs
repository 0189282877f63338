//! Both directions of the wire against one another, for every operation.

use boira_api::respond::respond;
use boira_api::shapes::{SERVICES, ec2, sts};
use boira_api::{ApiError, Kind, Operation, Shape, Str, Struct, Value, client, decode, form};
use proptest::prelude::*;

/// Makes up values of any shape.
struct Maker {
    state: u64,
    /// Characters that XML 1.0 can't carry are only for requests.
    for_xml: bool,
}

impl Maker {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64: any sequence does.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % bound.max(1)
    }

    fn text(&mut self, min: u32, max: u32) -> String {
        let alphabet: Vec<char> = if self.for_xml {
            "aB1 <>&\"'\n\t\ré€😀"
        } else {
            "aB1 <>&%+=.\0\r\né😀"
        }
        .chars()
        .collect();
        let length = u64::from(min) + self.below(6).min(u64::from(max - min));
        (0..length)
            .map(|_| alphabet[self.below(alphabet.len() as u64) as usize])
            .collect()
    }

    /// A value that can be seen on the wire; an empty structure or list can't.
    fn value(&mut self, shape: &'static Shape, depth: u32) -> Option<Value> {
        Some(match shape.kind {
            Kind::Structure(_) => Value::Struct(
                self.structure(shape, depth)
                    .filter(|made| !made.is_empty())?,
            ),
            Kind::List { item, min, max, .. } => {
                let length = min.max(1) + self.below(2).min(u64::from(max - min.max(1))) as u32;
                let items = (0..length).map(|_| self.value(shape.at(item), depth + 1));
                Value::List(items.collect::<Option<_>>()?)
            }
            Kind::Map { value, .. } => {
                let entries = (0..2).map(|n| {
                    Some((
                        Str::from(format!("key{n}")),
                        self.value(shape.at(value), depth + 1)?,
                    ))
                });
                Value::Map(entries.collect::<Option<_>>()?)
            }
            Kind::String { min, max, .. } => Value::from(self.text(min, max)),
            Kind::Enum(values) => Value::from(values[self.below(values.len() as u64) as usize]),
            Kind::Integer { min, max } => Value::from(
                min.saturating_add((self.below(1000) as i64).min(max.saturating_sub(min))),
            ),
            Kind::Double { min, max } => {
                Value::from((self.below(1000) as f64 / 8.0).clamp(min, max))
            }
            Kind::Boolean => Value::from(self.below(2) == 0),
            Kind::Timestamp => Value::Timestamp(self.below(4_000_000_000_000) as i64),
            Kind::Blob { .. } => Value::Blob((0..self.below(9)).map(|n| (n * 29) as u8).collect()),
        })
    }

    fn structure(&mut self, shape: &'static Shape, depth: u32) -> Option<Struct> {
        let mut made = Struct::new(shape);
        let members = shape.members();
        let chosen = self.below(members.len() as u64) as usize;
        for (index, member) in members.iter().enumerate() {
            let wanted = index == chosen || self.below(3) == 0;
            if !member.required && (depth > 4 || !wanted) {
                continue;
            }
            let value = self.value(shape.at(member.shape), depth + 1);
            if member.required && value.is_none() {
                return None;
            }
            made.set_at(index as u16, value);
        }
        Some(made)
    }
}

fn operations() -> impl Iterator<Item = &'static Operation> {
    SERVICES.iter().flat_map(|service| service.operations)
}

fn check_request(operation: &'static Operation, seed: u64) -> Result<bool, ApiError> {
    let mut maker = Maker {
        state: seed | 1,
        for_xml: false,
    };
    let Some(request) = maker.structure(operation.input(), 0) else {
        return Ok(false);
    };
    let body = client::encode(operation, &request);
    let parameters = form::parse(body.as_bytes())?;
    assert_eq!(
        decode(operation, &parameters)?,
        request,
        "{} {body}",
        operation.name
    );
    Ok(true)
}

fn check_answer(operation: &'static Operation, seed: u64) -> Result<bool, client::Unreadable> {
    let mut maker = Maker {
        state: seed | 1,
        for_xml: true,
    };
    let Some(shape) = operation.output() else {
        return Ok(false);
    };
    let Some(answer) = maker.structure(shape, 0) else {
        return Ok(false);
    };
    let xml = respond(operation, operation.service.version, "id", &answer);
    assert_eq!(
        client::parse_answer(operation, &xml)?,
        Some(answer),
        "{}",
        String::from_utf8_lossy(&xml)
    );
    Ok(true)
}

#[test]
fn requests_of_every_operation_come_back_from_the_wire() {
    let mut checked = 0;
    for operation in operations() {
        for seed in 1..6 {
            let fits = check_request(operation, seed * 7919)
                .unwrap_or_else(|error| panic!("{}: {error}", operation.name));
            checked += usize::from(fits);
        }
    }
    assert!(
        checked > 4 * operations().count(),
        "only {checked} requests were made"
    );
}

#[test]
fn answers_of_every_operation_come_back_from_the_wire() {
    let mut checked = 0;
    for operation in operations() {
        for seed in 1..6 {
            let fits = check_answer(operation, seed * 104_729)
                .unwrap_or_else(|error| panic!("{}: {error}", operation.name));
            checked += usize::from(fits);
        }
    }
    assert!(
        checked > 3 * operations().count(),
        "only {checked} answers were made"
    );
}

#[test]
fn errors_are_read_in_both_envelopes() {
    let error = ApiError::new(
        "InvalidInstanceID.NotFound",
        "The instance ID '<i>' does not exist",
    );
    for service in [&ec2::SERVICE, &sts::SERVICE] {
        let read = client::parse_error(&error.to_xml(service, "req-1"), error.status);
        assert_eq!(read, Ok((error.clone(), "req-1".to_owned())));
    }
    assert!(client::parse_error(b"<html><body>Bad gateway</body></html>", 502).is_err());
}

#[test]
fn what_is_no_answer_is_refused() {
    let operation = ec2::SERVICE
        .operation("DescribeInstances")
        .expect("AWS has it");
    let deep = "<a>".repeat(100_000);
    for xml in [
        "",
        "text",
        "<DescribeVolumesResponse/>",
        "<DescribeInstancesResponse>",
        &deep,
        "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><amiLaunchIndex>x</amiLaunchIndex>\
         </item></instancesSet></item></reservationSet></DescribeInstancesResponse>",
        "<DescribeInstancesResponse>&bomb;</DescribeInstancesResponse>",
    ] {
        assert!(
            client::parse_answer(operation, xml.as_bytes()).is_err(),
            "{}",
            &xml[..xml.len().min(80)]
        );
    }
    let unknown =
        b"<DescribeInstancesResponse xmlns=\"x\"><novelty>1</novelty></DescribeInstancesResponse>";
    assert_eq!(
        client::parse_answer(operation, unknown).map(|answer| answer.map(|a| a.is_empty())),
        Ok(Some(true))
    );
}

proptest! {
    #[test]
    fn no_answer_panics(xml: Vec<u8>) {
        let operation = ec2::SERVICE.operation("DescribeInstances").expect("AWS has it");
        let _ = client::parse_answer(operation, &xml);
    }

    #[test]
    fn any_request_comes_back_from_the_wire(at: prop::sample::Index, seed: u64) {
        let operation = at.get(ec2::SERVICE.operations);
        check_request(operation, seed)?;
        check_answer(operation, seed)?;
    }
}
