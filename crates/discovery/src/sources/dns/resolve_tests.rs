use super::*;
use crate::sources::dns::wire::Body;

fn name(text: &str) -> Name {
    Name::new(text).expect(text)
}

fn a(owner: &str, ttl: u32, ip: &str) -> Record {
    Record { name: name(owner), ttl, value: Value::Address(ip.parse().unwrap()) }
}

fn alias(owner: &str, ttl: u32, to: &str) -> Record {
    Record { name: name(owner), ttl, value: Value::Alias(name(to)) }
}

fn service(priority: u16, weight: u16, port: u16, target: &str) -> Service {
    Service { priority, weight, port, target: name(target) }
}

fn hit(ips: &[&str], ttl: u32) -> Hit {
    Hit { values: ips.iter().map(|ip| Value::Address(ip.parse().unwrap())).collect(), ttl }
}

#[test]
fn each_answer_has_its_verdict() {
    let record = a("a", 1, "10.0.0.1");
    let body = |records: &[Record], negative, referral| Some(Body { records: records.to_vec(), negative, referral });
    let cases = [
        (NO_ERROR, false, body(std::slice::from_ref(&record), None, false), Verdict::Records(vec![record])),
        (NO_ERROR, false, body(&[], None, false), Verdict::Nothing(NEGATIVE_SECONDS)),
        (NO_ERROR, false, body(&[], Some(60), false), Verdict::Nothing(60)),
        (NO_NAME, false, body(&[], Some(60), false), Verdict::Nothing(60)),
        (NO_NAME, false, None, Verdict::Nothing(NEGATIVE_SECONDS)),
        (NO_ERROR, false, body(&[], None, true), Verdict::Trouble("names other servers instead of an answer")),
        (NO_ERROR, false, None, Verdict::Cut),
        (NO_ERROR, true, body(&[], None, false), Verdict::Cut),
        (NO_NAME, true, body(&[], None, false), Verdict::Cut),
        (SERVER_FAILURE, false, body(&[], None, false), Verdict::Trouble("failed (SERVFAIL)")),
        (SERVER_FAILURE, true, body(&[], None, false), Verdict::Trouble("failed (SERVFAIL)")),
        (REFUSED, false, None, Verdict::Trouble("refused")),
        (FORMAT_ERROR, false, None, Verdict::Plainer),
        (NOT_IMPLEMENTED, false, None, Verdict::Plainer),
        (11, false, body(&[], None, false), Verdict::Trouble("answered with an unusual error")),
    ];
    for (code, truncated, body, expected) in cases {
        let answer = Answer { code, truncated, body };
        assert_eq!(judge(answer.clone()), expected, "{answer:?}");
    }
}

#[test]
fn aliases_are_followed_within_an_answer_and_the_least_time_counts() {
    let mut search = Search::new(name("a"), Kind::A);
    let records = [
        a("x", 1, "10.0.0.9"),
        a("c", 50, "10.0.0.1"),
        alias("b", 20, "c"),
        alias("a", 300, "b"),
        a("c", 60, "10.0.0.2"),
    ];
    assert_eq!(search.records(&records), Ok(Some(hit(&["10.0.0.1", "10.0.0.2"], 20))));
}

#[test]
fn an_answer_that_ends_with_an_alias_leads_to_another_question() {
    let mut search = Search::new(name("a"), Kind::A);
    assert_eq!(search.records(&[alias("a", 7, "b"), alias("b", 9, "c")]), Ok(None));
    assert_eq!(search.question(), (&name("c"), Kind::A));
    assert_eq!(search.nothing(60), hit(&[], 7));
    assert_eq!(search.records(&[a("c", 9, "10.0.0.1")]), Ok(Some(hit(&["10.0.0.1"], 7))));
}

#[test]
fn records_of_other_names_and_kinds_are_not_ours() {
    let cases = [
        vec![a("b", 9, "10.0.0.1")],
        vec![a("a", 9, "::1")],
        vec![Record { name: name("a"), ttl: 9, value: Value::Service(service(0, 0, 1, "b")) }],
        vec![alias("b", 9, "a")],
    ];
    for records in cases {
        let mut search = Search::new(name("a"), Kind::A);
        assert_eq!(search.records(&records), Ok(Some(hit(&[], NEGATIVE_SECONDS))), "{records:?}");
    }
}

#[test]
fn too_many_aliases_end_the_search() {
    let chain = |length| (0..length).map(|n| alias(&format!("n{n}"), 9, &format!("n{}", n + 1)));
    let mut search = Search::new(name("n0"), Kind::A);
    let records: Vec<_> = chain(8).chain([a("n8", 9, "10.0.0.1")]).collect();
    assert_eq!(search.records(&records), Ok(Some(hit(&["10.0.0.1"], 9))));

    let records: Vec<_> = chain(9).chain([a("n9", 9, "10.0.0.1")]).collect();
    let error = Search::new(name("n0"), Kind::A).records(&records).expect_err("nine are too many");
    assert!(error.text().contains("more than 8 aliases"), "{error}");

    let circle = [alias("a", 9, "b"), alias("b", 9, "a")];
    assert!(Search::new(name("a"), Kind::A).records(&circle).is_err(), "a circle within one answer");
    let mut search = Search::new(name("a"), Kind::A);
    let ends = (0..20).map(|n| {
        let (from, to) = if n % 2 == 0 { ("a", "b") } else { ("b", "a") };
        search.records(&[alias(from, 9, to)])
    });
    assert_eq!(ends.take_while(|end| *end == Ok(None)).count(), 8, "a circle over several answers");
}

#[test]
fn services_and_their_addresses_are_one_list_in_order() {
    let services = [
        service(20, 0, 80, "b"),
        service(10, 5, 80, "a"),
        service(10, 7, 81, "a"),
        service(30, 1, 80, "gone"),
        service(40, 1, 80, "b"),
    ];
    let addresses = BTreeMap::from([
        (name("a"), vec!["10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()]),
        (name("b"), vec!["10.0.0.1".parse().unwrap(), "10.0.0.3".parse().unwrap()]),
    ]);
    let zone = Zone::new("ams");
    let list = of_services(&services, &addresses, zone.as_ref()).unwrap();
    let short: Vec<_> = list.iter().map(|found| (&*found.id, found.weight, found.priority)).collect();
    let expected = [
        // On the levels 0, 1 and 3: the first that it is on counts.
        ("10.0.0.1:80", 5, 0),
        ("10.0.0.1:81", 7, 0),
        ("10.0.0.2:80", 5, 0),
        ("10.0.0.2:81", 7, 0),
        ("10.0.0.3:80", 1, 1),
    ];
    assert_eq!(short, expected);
    assert!(list.iter().all(|found| found.zone == zone && found.reported == Reported::Ready));
    let mut shuffled = services.to_vec();
    shuffled.reverse();
    assert_eq!(of_services(&shuffled, &addresses, zone.as_ref()), Ok(list), "the order of answers means nothing");
}

#[test]
fn targets_are_distinct_bounded_and_never_the_root() {
    let root = Service { priority: 0, weight: 0, port: 0, target: root() };
    assert_eq!(targets(std::slice::from_ref(&root)), Ok(vec![]), "no such service");
    let services = [service(0, 1, 80, "b"), service(0, 1, 81, "B"), service(0, 1, 80, "a"), root];
    assert_eq!(targets(&services), Ok(vec![name("a"), name("b")]));
    let many = |n| (0..n).map(|n| service(0, 1, 80, &format!("n{n}"))).collect::<Vec<_>>();
    assert_eq!(targets(&many(1_000)).map(|targets| targets.len()), Ok(1_000));
    assert!(targets(&many(1_001)).is_err());
}

/// The root cannot be written in a configuration, only come from the wire.
fn root() -> Name {
    use crate::sources::dns::wire::Query;
    let query = Query { id: 0, name: name("a"), kind: Kind::Srv };
    let mut message = query.message(false);
    message[2] = 0x80;
    message[7] = 1;
    message.extend(*b"\xc0\x0c\0\x21\0\x01\0\0\0\0\0\x07\0\0\0\0\0\0\0");
    match query.answer(&message).unwrap().body.unwrap().records.remove(0).value {
        Value::Service(service) => service.target,
        other => panic!("{other:?} is no service"),
    }
}

#[test]
fn more_endpoints_than_a_service_can_have_are_refused() {
    let ips: Vec<IpAddr> = (0..=ENDPOINTS_MAX as u32).map(|n| std::net::Ipv4Addr::from(n).into()).collect();
    assert!(of_addresses(&ips, 80, None).is_err());
    assert_eq!(of_addresses(&ips[1..], 80, None).map(|list| list.len()), Ok(ENDPOINTS_MAX));
}

#[test]
fn a_pause_is_as_long_as_the_answer_holds_within_bounds() {
    let mut rng = Rng::new(1);
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(300));
    for (ttl, held) in [(0, 1), (1, 1), (30, 30), (300, 300), (86_400, 300), (u32::MAX, 300)] {
        let held = Duration::from_secs(held);
        let pauses: Vec<_> = (0..100).map(|_| pause(ttl, least, most, &mut rng)).collect();
        assert!(pauses.iter().all(|&pause| pause >= held && pause < held.mul_f64(1.1)), "{ttl}");
        assert!(pauses.iter().any(|&pause| pause > held.mul_f64(1.05)), "those that began together drift apart");
    }
}
