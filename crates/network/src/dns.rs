//! DNS: what the VPC itself knows is answered here, everything else is for the host's resolvers.
//!
//! As in AWS, every address of the VPC has the name `ip-A-B-C-D.DOMAIN`, forward and reverse,
//! computed from the address: no list of the cluster's instances has to be here. The guests of
//! this host are known by their host names too.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::spec::VpcSpec;

/// How long a guest may keep an answer about the VPC, in seconds.
const TTL_S: u32 = 60;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Answer(Vec<u8>),
    /// Ask a resolver of the host with the same bytes.
    Forward,
    /// Not a query; answering could start a loop.
    Ignore,
}

/// What to do with a packet of a guest.
pub fn decide(packet: &[u8], spec: &VpcSpec) -> Decision {
    let Ok(query) = Message::from_vec(packet) else {
        return Decision::Ignore;
    };
    if query.metadata.message_type != MessageType::Query {
        return Decision::Ignore;
    }
    let [question] = &query.queries[..] else {
        return refuse(&query, ResponseCode::FormErr);
    };
    if query.metadata.op_code != OpCode::Query {
        return refuse(&query, ResponseCode::NotImp);
    }
    if question.query_class != DNSClass::IN {
        return Decision::Forward;
    }
    match look_up(&question.name, spec) {
        Known::Address(address) => {
            let data = RData::A(A(address));
            answer_with(&query, RecordType::A, data)
        }
        Known::Name(name) => answer_with(&query, RecordType::PTR, RData::PTR(PTR(name))),
        Known::Nothing => refuse(&query, ResponseCode::NXDomain),
        Known::Elsewhere => Decision::Forward,
    }
}

/// The answer when no resolver could be asked.
pub fn failure(packet: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(packet).ok()?;
    match refuse(&query, ResponseCode::ServFail) {
        Decision::Answer(bytes) => Some(bytes),
        Decision::Forward | Decision::Ignore => None,
    }
}

/// The name that every address of the VPC has.
pub fn address_name(address: Ipv4Addr, domain: &str) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}.{domain}")
}

enum Known {
    Address(Ipv4Addr),
    Name(Name),
    /// It would be ours, but there is no such thing.
    Nothing,
    Elsewhere,
}

fn look_up(name: &Name, spec: &VpcSpec) -> Known {
    let text = name.to_ascii().to_ascii_lowercase();
    let text = text.trim_end_matches('.');
    if let Some(reversed) = text.strip_suffix(".in-addr.arpa") {
        return look_up_address(reversed, spec);
    }
    let domain = spec.domain.to_ascii_lowercase();
    let host = text.strip_suffix(&domain).and_then(|h| h.strip_suffix('.'));
    let port = spec.ports.iter().find(|port| {
        let own = port.hostname.to_ascii_lowercase();
        own == text || host.is_some_and(|host| own == host)
    });
    match (port, host) {
        (Some(port), _) => Known::Address(port.ip),
        (None, Some(host)) => named_address(host)
            .filter(|address| spec.cidr.contains(address))
            .map_or(Known::Nothing, Known::Address),
        (None, None) => Known::Elsewhere,
    }
}

/// `D.C.B.A` to a name.
fn look_up_address(reversed: &str, spec: &VpcSpec) -> Known {
    let Ok(address) = reversed.parse::<Ipv4Addr>() else {
        return Known::Elsewhere;
    };
    let [d, c, b, a] = address.octets();
    let address = Ipv4Addr::new(a, b, c, d);
    if !spec.cidr.contains(&address) {
        return Known::Elsewhere;
    }
    Name::from_ascii(address_name(address, &spec.domain) + ".").map_or(Known::Nothing, Known::Name)
}

/// `ip-A-B-C-D` to the address.
fn named_address(host: &str) -> Option<Ipv4Addr> {
    host.strip_prefix("ip-")?.replace('-', ".").parse().ok()
}

/// A name that exists but has no record of the wanted kind gets an empty answer.
fn answer_with(query: &Message, kind: RecordType, data: RData) -> Decision {
    let mut reply = reply_to(query, ResponseCode::NoError);
    for question in &query.queries {
        if question.query_type == kind || question.query_type == RecordType::ANY {
            let record = Record::from_rdata(question.name.clone(), TTL_S, data.clone());
            reply.add_answer(record);
        }
    }
    encode(&reply)
}

fn refuse(query: &Message, code: ResponseCode) -> Decision {
    encode(&reply_to(query, code))
}

fn reply_to(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = code != ResponseCode::ServFail;
    reply.metadata.response_code = code;
    reply.add_queries(query.queries.iter().cloned());
    reply
}

fn encode(reply: &Message) -> Decision {
    reply.to_vec().map_or(Decision::Ignore, Decision::Answer)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::spec;

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 77;
        let name = Name::from_ascii(name).expect("a name");
        message.add_query(Query::query(name, kind));
        message.to_vec().expect("it can be encoded")
    }

    fn ask(name: &str, kind: RecordType) -> Option<Message> {
        match decide(&question(name, kind), &spec()) {
            Decision::Answer(bytes) => {
                let answer = Message::from_vec(&bytes).expect("it can be read");
                assert_eq!(answer.metadata.id, 77);
                assert_eq!(answer.metadata.message_type, MessageType::Response);
                Some(answer)
            }
            Decision::Forward => None,
            Decision::Ignore => panic!("a question is never ignored"),
        }
    }

    fn address_of(name: &str) -> Option<String> {
        let answer = ask(name, RecordType::A)?;
        Some(answer.answers.first()?.data.to_string())
    }

    #[test]
    fn every_address_of_the_vpc_has_a_name() {
        let address = address_of("ip-172-31-15-200.ec2.internal.");
        assert_eq!(address.as_deref(), Some("172.31.15.200"));
        let reverse = ask("200.15.31.172.in-addr.arpa.", RecordType::PTR).expect("an answer");
        let name = reverse.answers[0].data.to_string();
        assert_eq!(name, "ip-172-31-15-200.ec2.internal.");
    }

    #[test]
    fn guests_are_known_by_their_host_names_in_any_case() {
        let mut spec = spec();
        spec.ports[0].hostname = "db".to_owned();
        spec.ports[1].hostname = "www.example.org".to_owned();
        for (name, known) in [
            ("DB.ec2.internal.", true),
            ("db.", true),
            ("www.EXAMPLE.org.", true),
            ("example.org.", false),
        ] {
            let answered = matches!(
                decide(&question(name, RecordType::A), &spec),
                Decision::Answer(_)
            );
            assert_eq!(answered, known, "{name}");
        }
    }

    #[test]
    fn a_name_without_a_record_of_that_kind_is_empty_and_not_absent() {
        let answer = ask("ip-172-31-0-11.ec2.internal.", RecordType::AAAA).expect("an answer");
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.answers.is_empty());
    }

    #[test]
    fn what_would_be_ours_and_is_not_there_is_absent() {
        for name in ["nobody.ec2.internal.", "ip-10-0-0-1.ec2.internal."] {
            let answer = ask(name, RecordType::A).expect("an answer");
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        }
    }

    #[test]
    fn the_rest_is_asked_elsewhere() {
        assert!(ask("example.org.", RecordType::A).is_none());
        assert!(ask("1.2.0.192.in-addr.arpa.", RecordType::PTR).is_none());
        let failure = failure(&question("example.org.", RecordType::A)).expect("an answer");
        let failure = Message::from_vec(&failure).expect("it can be read");
        assert_eq!(failure.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn answers_are_not_answered() {
        let mut answer = question("ip-172-31-0-11.ec2.internal.", RecordType::A);
        answer[2] |= 0x80;
        assert_eq!(decide(&answer, &spec()), Decision::Ignore);
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decide(&packet, &spec());
            let _ = failure(&packet);
        }

        #[test]
        fn no_damaged_question_does_harm(at: usize, byte: u8, cut in 0_usize..64) {
            let mut packet = question("ip-172-31-0-11.ec2.internal.", RecordType::A);
            let place = at % packet.len();
            packet[place] = byte;
            packet.truncate(packet.len().saturating_sub(cut / 4));
            let _ = decide(&packet, &spec());
            let _ = failure(&packet);
        }
    }
}
