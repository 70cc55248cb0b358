use super::*;

fn query() -> Query {
    Query { id: 0x1234, name: Name::new("Web.Example.com").unwrap(), kind: Kind::A }
}

/// An answer to [`query`] with these flags beside "response", these counts, and these bytes after the question.
fn message(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0x1234, RESPONSE | flags, counts[0], counts[1], counts[2], counts[3]] {
        out.extend(word.to_be_bytes());
    }
    if counts[0] > 0 {
        out.extend(&query().name.0);
        out.extend([0, 1, 0, 1]);
    }
    out.extend(rest);
    out
}

/// A record of the name that was asked for.
fn record(kind: u16, class: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let head = [&[0xc0, 12][..], &kind.to_be_bytes(), &class.to_be_bytes(), &ttl.to_be_bytes()].concat();
    [&head[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

fn answered(message: &[u8]) -> Answer {
    query().answer(message).expect("it is an answer to the question")
}

fn records(rest: &[u8], count: u16) -> Option<Vec<Record>> {
    answered(&message(0, [1, count, 0, 0], rest)).body.map(|body| body.records)
}

#[test]
fn names_are_what_hosts_and_services_are_called() {
    let long = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    for good in ["a", "a.b.", "_pg._tcp.example.com", "1.2", &long] {
        let shown = Name::new(good).expect(good).to_string();
        assert_eq!(shown, good.trim_end_matches('.'));
    }
    let labels = "a".repeat(64);
    for bad in ["", ".", "a..b", ".a", "a b", "ä.de", "a\\.b", "a\0b", &labels, &(long.clone() + "d")] {
        assert_eq!(Name::new(bad), None, "{bad:?}");
    }
    assert_eq!(Name::new("ExAmple"), Name::new("eXaMPLE."));
}

#[test]
fn a_question_is_one_of_the_wire() {
    let plain = query().message(false);
    assert_eq!(plain, b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03web\x07example\x03com\0\0\x01\0\x01");
    let edns = query().message(true);
    assert_eq!(&edns[..12], b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\x01");
    assert_eq!(&edns[plain.len()..], b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
}

#[test]
fn only_answers_to_the_question_are_answers() {
    let good = message(0, [1, 0, 0, 0], &[]);
    assert!(query().answer(&good).is_some());
    // The letters of a name may come back in another case.
    let mut case = good.clone();
    case[13..16].copy_from_slice(b"wEB");
    assert!(query().answer(&case).is_some());
    let changed = |at: usize, to: u8| {
        let mut message = good.clone();
        message[at] = to;
        message
    };
    let strange = [
        (changed(1, 0), "another id"),
        (changed(2, 0), "a question"),
        (changed(2, 0x88), "another kind of operation"),
        (changed(5, 0), "no question"),
        (changed(5, 2), "two questions"),
        (changed(14, b'x'), "another name"),
        (changed(30, 28), "another type"),
        (changed(32, 3), "another class"),
        (good[..20].to_vec(), "a cut name"),
        (good[..31].to_vec(), "a cut question"),
        (good[..11].to_vec(), "a cut head"),
        (Vec::new(), "nothing"),
    ];
    for (message, what) in strange {
        assert_eq!(query().answer(&message), None, "{what}");
    }
    for (code, counts) in
        [(NO_ERROR, false), (NO_NAME, false), (FORMAT_ERROR, true), (SERVER_FAILURE, true), (REFUSED, true)]
    {
        let headless = query().answer(&message(u16::from(code), [0; 4], &[]));
        assert_eq!(headless.is_some(), counts, "code {code} without the question");
    }
}

#[test]
fn records_of_the_kinds_that_matter_are_read() {
    let srv = [&[0, 1, 0, 2, 0x15, 0x38][..], b"\x01a\xc0\x0c"].concat();
    let rest = [
        record(A, IN, 60, &[10, 0, 0, 1]),
        record(AAAA, IN, 61, &Ipv6Addr::LOCALHOST.octets()),
        record(CNAME, IN, 62, b"\x01B\xc0\x10"),
        record(SRV, IN, u32::MAX, &srv),
        record(16, IN, 1, b"\xffnot a text"),
        record(A, 3, 1, &[10, 0, 0, 9]),
        record(46, IN, 1, &[]),
    ];
    let records = records(&rest.concat(), 7).expect("it is well-formed");
    let target = Name::new("a.web.example.com").unwrap();
    let expected = [
        (60, Value::Address("10.0.0.1".parse().unwrap())),
        (61, Value::Address("::1".parse().unwrap())),
        (62, Value::Alias(Name::new("b.example.com").unwrap())),
        (0, Value::Service(Service { priority: 1, weight: 2, port: 5432, target })),
    ];
    assert_eq!(records.len(), expected.len());
    for (record, (ttl, value)) in records.into_iter().zip(expected) {
        assert_eq!(record, Record { name: query().name, ttl, value });
    }
}

#[test]
fn malformed_records_spoil_the_answer() {
    let good = record(A, IN, 60, &[10, 0, 0, 1]);
    let at_itself = [0xc0, 33, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4];
    let each_other = record(CNAME, IN, 1, &[0xc0, 47, 0xc0, 45]);
    let endless = [&[1, b'a', 0xc0, 33][..], &[0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4]].concat();
    let reserved = [&[0x80, 0][..], &good[2..]].concat();
    let long = [&[63; 300][..], &good[2..]].concat();
    let cases = [
        (good[..good.len() - 1].to_vec(), "data end early"),
        (good[..9].to_vec(), "the head ends early"),
        (record(A, IN, 60, &[10, 0, 0]), "three bytes of an address"),
        (record(A, IN, 60, &[10, 0, 0, 1, 1]), "five bytes of an address"),
        (record(AAAA, IN, 60, &[10, 0, 0, 1]), "a short IPv6 address"),
        (record(SRV, IN, 60, &[0, 0, 0, 0, 0]), "half a service"),
        (record(SRV, IN, 60, &[0, 0, 0, 0, 0, 80]), "no target"),
        (record(CNAME, IN, 60, b"\x01a\0\0"), "something behind the alias"),
        (record(CNAME, IN, 60, b"\x05ab"), "a label that leaves its record"),
        (at_itself.to_vec(), "a name that points at itself"),
        (each_other, "names that point at each other"),
        (endless, "a name that is its own end"),
        (reserved, "a kind of label that does not exist"),
        (long, "a name above 255 bytes"),
        (Vec::new(), "fewer records than announced"),
    ];
    for (rest, what) in cases {
        assert_eq!(records(&rest, 1), None, "{what}");
    }
    assert_eq!(records(&good, u16::MAX), None, "counts are not believed");
}

#[test]
fn a_no_says_for_how_long_and_a_referral_is_none() {
    let soa = |ttl, minimum: u32| record(SOA, IN, ttl, &[&[0, 0][..], &[0; 16], &minimum.to_be_bytes()].concat());
    let ns = record(NS, IN, 60, &[0]);
    let body = |rest: &[u8], counts: [u16; 4]| answered(&message(3, counts, rest)).body;
    assert_eq!(body(&[], [1, 0, 0, 0]), Some(Body::default()));
    assert_eq!(body(&soa(300, 30), [1, 0, 1, 0]).unwrap().negative, Some(30));
    assert_eq!(body(&soa(10, 30), [1, 0, 1, 0]).unwrap().negative, Some(10), "the less of the two (RFC 2308)");
    assert!(body(&ns, [1, 0, 1, 0]).unwrap().referral);
    assert!(!body(&[ns.clone(), soa(1, 1)].concat(), [1, 0, 2, 0]).unwrap().referral);
    assert!(!body(&[record(A, IN, 1, &[1, 2, 3, 4]), ns].concat(), [1, 1, 1, 0]).unwrap().referral);
    assert_eq!(body(&record(SOA, IN, 1, &[0, 0, 1]), [1, 0, 1, 0]), None, "half a SOA record");
    let cut = answered(&message(TRUNCATED, [1, 5, 0, 0], &record(A, IN, 1, &[1, 2, 3, 4])));
    assert!(cut.truncated && cut.body == Some(Body::default()), "nothing of a cut answer counts");
}

#[test]
fn any_bytes_are_read_without_harm() {
    let srv = record(SRV, IN, 9, &[&[0, 1, 0, 2, 0x15, 0x38][..], b"\x01a\xc0\x0c"].concat());
    let good = message(
        0,
        [1, 3, 1, 0],
        &[record(CNAME, IN, 9, b"\x01b\xc0\x10"), srv, record(A, IN, 9, &[1, 2, 3, 4]), record(SOA, IN, 9, &[0; 22])]
            .concat(),
    );
    assert_eq!(answered(&good).body.unwrap().records.len(), 3, "the seed of this test is well-formed");
    let mut rng = balance::Rng::new(53);
    let mut read = 0;
    for _ in 0..30_000 {
        let mut message = good.clone();
        for _ in 0..=rng.below(4) {
            let at = rng.below(message.len() as u64) as usize;
            message[at] = if rng.below(2) == 0 { rng.below(256) as u8 } else { 0xc0 };
        }
        message.truncate(rng.below(2 * good.len() as u64) as usize);
        if let Some(Answer { body: Some(body), .. }) = query().answer(&message) {
            read += 1;
            assert!(
                body.records
                    .iter()
                    .all(|record| record.name.0.len() <= NAME_MAX && !record.name.to_string().is_empty())
            );
        }
    }
    assert!(read > 300, "some of it still is an answer: {read}");
}
