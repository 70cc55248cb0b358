//! Endpoints from a name server that gives every answer one has been seen to give.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use discovery::sources::{DnsSettings, DnsSource, Family};
use tokio::net::UdpSocket;

use crate::dns_server::{Asked, NameServer, Record};
use crate::support::{PATIENCE, Run};

const A: u16 = 1;
const SRV: u16 = 33;

/// Asks again at once, and gives up soon.
fn settings(name: &str, servers: &[SocketAddr]) -> DnsSettings {
    DnsSettings {
        port: (!name.starts_with('_')).then_some(80),
        servers: servers.to_vec(),
        family: Family::V4,
        timeout: PATIENCE,
        ttl_min: Duration::from_millis(5),
        ttl_max: Duration::from_millis(5),
        ..DnsSettings::new(name)
    }
}

fn run(name: &str, server: &NameServer) -> Run {
    Run::of(DnsSource::new(settings(name, &[server.address])).expect("good settings"))
}

/// The answer to every question: these addresses.
fn addresses(ips: &'static [[u8; 4]]) -> impl FnMut(&Asked) -> Vec<Vec<u8>> {
    move |asked| {
        let records: Vec<_> = ips.iter().map(|&ip| Record::a(&asked.name, ip)).collect();
        vec![asked.answer(&records)]
    }
}

#[tokio::test]
async fn addresses_are_listed_and_followed() {
    let server = NameServer::start(addresses(&[[10, 0, 0, 2], [10, 0, 0, 1]])).await;
    let mut run = run("web.example", &server);
    assert_eq!(run.ids().await, ["10.0.0.1:80", "10.0.0.2:80"]);
    run.alive().await;
    server.change(addresses(&[[10, 0, 0, 1], [10, 0, 0, 2]]));
    run.alive().await;
    run.alive().await;
    server.change(addresses(&[[10, 0, 0, 3]]));
    assert_eq!(run.ids().await, ["10.0.0.3:80"]);
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.name == "web.example" && asked.kind == A && asked.edns));
    let ids: std::collections::HashSet<_> = asked.iter().map(|asked| asked.id).collect();
    assert!(ids.len() > 1, "each question has a number of its own");
}

#[tokio::test]
async fn both_families_are_one_list() {
    let server = NameServer::start(|asked| {
        let record = if asked.kind == A { Record::a("web", [10, 0, 0, 1]) } else { Record::aaaa("web", "fd00::1") };
        vec![asked.answer(&[record])]
    })
    .await;
    let settings = DnsSettings { family: Family::Any, ..settings("web", &[server.address]) };
    let mut run = Run::of(DnsSource::new(settings).unwrap());
    assert_eq!(run.ids().await, ["10.0.0.1:80", "[fd00::1]:80"]);
    // One that fails is not taken for one that has nothing.
    server.change(|asked| vec![if asked.kind == A { asked.answer(&[]) } else { asked.reply(2, &[], &[]) }]);
    assert!(run.error().await.contains("AAAA of web; 127.0.0.1"));
}

#[tokio::test]
async fn no_such_name_and_no_such_records_are_empty_lists() {
    for code in [0, 3] {
        let server = NameServer::start(addresses(&[[10, 0, 0, 1]])).await;
        let mut run = run("web", &server);
        assert_eq!(run.ids().await, ["10.0.0.1:80"]);
        server.change(move |asked| vec![asked.reply(code, &[], &[])]);
        assert_eq!(run.list().await, []);
    }
}

#[tokio::test]
async fn failures_are_errors_and_say_what_each_server_said() {
    type Answers = fn(&Asked) -> Vec<Vec<u8>>;
    let cases: [(Answers, &str); 7] = [
        (|asked| vec![asked.reply(2, &[], &[])], "failed (SERVFAIL)"),
        (|asked| vec![asked.reply(5, &[], &[])], "refused"),
        (|asked| vec![asked.reply(1, &[], &[])], "does not understand the question"),
        (|asked| vec![asked.reply(9, &[], &[])], "an unusual error"),
        (|asked| vec![asked.reply(0, &[], &[Record::ns("example")])], "names other servers"),
        (|asked| vec![asked.cut()], "the answer is cut, even over TCP"),
        (
            |asked| {
                (0..9)
                    .map(|n| asked.answer(&[Record::cname(&asked.name, &format!("{n}.{}", &asked.name[1..]))]))
                    .take(1)
                    .collect()
            },
            "more than 8 aliases",
        ),
    ];
    for (answers, expected) in cases {
        let server = NameServer::start(addresses(&[[10, 0, 0, 1]])).await;
        let mut run = run("aaaaaaaaaaaaaaaaaaaaa", &server);
        assert_eq!(run.ids().await, ["10.0.0.1:80"]);
        server.change(answers);
        let error = run.error().await;
        assert!(
            error.contains(expected) && error.starts_with(if expected.contains("aliases") { "more" } else { "A of a" }),
            "{expected}: {error}"
        );
    }
}

#[tokio::test]
async fn silence_is_an_error() {
    let server = NameServer::start(|_| Vec::new()).await;
    let settings = DnsSettings { timeout: Duration::from_millis(30), ..settings("web", &[server.address]) };
    let error = Run::of(DnsSource::new(settings).unwrap()).error().await;
    assert!(error.contains("no answer in 30 ms"), "{error}");
    assert_eq!(server.asked().len(), 2, "each server is asked twice");
}

#[tokio::test]
async fn another_server_is_asked_when_one_does_not_help() {
    let failing = NameServer::start(|asked| vec![asked.reply(2, &[], &[])]).await;
    let good = NameServer::start(addresses(&[[10, 0, 0, 1]])).await;
    // Nobody listens here: the socket is bound, and connected to somebody else.
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    deaf.connect(good.address).await.unwrap();
    let servers = [deaf.local_addr().unwrap(), failing.address, good.address];
    let mut run = Run::of(DnsSource::new(settings("web", &servers)).unwrap());
    assert_eq!(run.ids().await, ["10.0.0.1:80"]);
    // A "no" is an answer: nobody else is asked.
    failing.change(|asked| vec![asked.reply(3, &[], &[])]);
    assert_eq!(run.list().await, []);
}

#[tokio::test]
async fn what_is_no_answer_to_the_question_is_passed_over() {
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.set_nonblocking(true).unwrap();
    let server = NameServer::start(move |asked| {
        let wrong = |change: &dyn Fn(&mut Asked)| {
            let mut asked = asked.clone();
            change(&mut asked);
            asked.answer(&[Record::a("web", [6, 6, 6, 6])])
        };
        let mut question = wrong(&|_| ());
        question[2] &= 0x7f;
        vec![
            Vec::new(),
            vec![0; 11],
            b"x".repeat(600),
            question,
            wrong(&|asked| asked.id[0] ^= 1),
            wrong(&|asked| asked.question[1] = b'x'),
            wrong(&|asked| asked.question = b"\x03web\0\0\x1c\0\x01".to_vec()),
            asked.answer(&[Record::a("web", [10, 0, 0, 1])]),
        ]
    })
    .await;
    assert_eq!(run("web", &server).ids().await, ["10.0.0.1:80"]);

    // A flood of them ends the question.
    server.change(|asked| {
        let mut asked = asked.clone();
        asked.id[1] ^= 1;
        vec![asked.answer(&[]); 150]
    });
    let error = run("web", &server).error().await;
    assert!(error.contains("only answers to other questions came") || error.contains("no answer in"), "{error}");
}

#[tokio::test]
async fn an_answer_from_another_address_does_not_arrive() {
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    // The true server relays nothing; the stranger answers in its place, to the port that asked.
    let true_server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = true_server.local_addr().unwrap();
    let mut run = Run::of(DnsSource::new(settings("web", &[address])).unwrap());
    let answering = async {
        let mut buffer = [0; 512];
        let (length, from) = true_server.recv_from(&mut buffer).await.unwrap();
        let mut forged = buffer[..length - 11].to_vec();
        forged[2] = 0x81;
        forged[11] = 0;
        stranger.send_to(&forged, from).unwrap();
        let mut right = forged.clone();
        right[7] = 1;
        right.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x0a\0\0\x01");
        true_server.send_to(&right, from).await.unwrap();
    };
    answering.await;
    assert_eq!(run.ids().await, ["10.0.0.1:80"], "the forged answer was an empty list");
}

#[tokio::test]
async fn a_cut_answer_is_asked_for_over_tcp() {
    let many =
        |asked: &Asked| asked.answer(&(0..200).map(|n| Record::a(&asked.name, [10, 0, 0, n])).collect::<Vec<_>>());
    let server = NameServer::start(move |asked| vec![if asked.tcp { many(asked) } else { asked.cut() }]).await;
    assert_eq!(run("web", &server).list().await.len(), 200);
    // Some only stop in the middle, and do not say so.
    server.change(move |asked| vec![if asked.tcp { many(asked) } else { many(asked)[..500].to_vec() }]);
    assert_eq!(run("web", &server).list().await.len(), 200);

    type OverTcp = fn(&Asked) -> Vec<Vec<u8>>;
    let bad: [(OverTcp, &str); 3] = [
        (|_| Vec::new(), "and over TCP: "),
        (
            |asked| vec![asked.answer(&[Record::a("web", [10, 0, 0, 1])])[..30].to_vec()],
            "the answer is cut, even over TCP",
        ),
        (|_| vec![b"nonsense".to_vec()], "an answer to another question"),
    ];
    for (over_tcp, expected) in bad {
        server.change(move |asked| if asked.tcp { over_tcp(asked) } else { vec![asked.cut()] });
        let error = run("web", &server).error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn half_an_answer_over_tcp_is_none_however_long_one_waits() {
    let server = NameServer::start(|asked| vec![asked.cut()]).await;
    let whole = [&[0u8, 60][..], &[0; 12]].concat();
    for said in [&[][..], &[0], &[0, 60], &whole, &[0xff, 0xff], &[0, 0], &[0, 1, 0]] {
        server.says_over_tcp(said);
        let settings = DnsSettings { timeout: Duration::from_secs(1), ..settings("web", &[server.address]) };
        let error = Run::of(DnsSource::new(settings).unwrap()).error().await;
        assert!(error.contains("A of web"), "{said:?}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_error_and_its_return_a_whole_list() {
    let server = NameServer::start(addresses(&[[10, 0, 0, 1], [10, 0, 0, 2]])).await;
    let address = server.address;
    let source = Arc::new(DnsSource::new(settings("web", &[address])).unwrap());
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, ["10.0.0.1:80", "10.0.0.2:80"]);
    drop(server);
    let error = run.error().await;
    assert!(error.contains("A of web; 127.0.0.1") && error.contains("refused"), "{error}");
    assert!(Run::again(&source).error().await.contains("refused"));
    let other = NameServer::start(addresses(&[[10, 0, 0, 3]])).await;
    let mut run = Run::again(&Arc::new(DnsSource::new(settings("web", &[address, other.address])).unwrap()));
    assert_eq!(run.ids().await, ["10.0.0.3:80"]);
}

#[tokio::test]
async fn answers_that_flap_are_told_each_as_it_is() {
    let mut n = 0;
    let server = NameServer::start(move |asked| {
        n += 1;
        let records: Vec<_> = (0..n % 3).map(|k| Record::a(&asked.name, [10, 0, 0, k])).collect();
        vec![asked.answer(&records)]
    })
    .await;
    let mut run = run("web", &server);
    for expected in [1, 2, 0, 1, 2, 0] {
        assert_eq!(run.list().await.len(), expected);
    }
}

#[tokio::test]
async fn a_server_without_edns_is_asked_without() {
    for code in [1, 4] {
        let server = NameServer::start(move |asked| match asked.edns {
            // Such servers send back the head alone.
            true => vec![asked.reply(code, &[], &[])],
            false => vec![asked.answer(&[Record::a("web", [10, 0, 0, 1])])],
        })
        .await;
        assert_eq!(run("web", &server).ids().await, ["10.0.0.1:80"]);
    }
}

#[tokio::test]
async fn aliases_lead_to_other_questions() {
    let server = NameServer::start(|asked| {
        vec![match &*asked.name {
            "web" => asked.answer(&[Record::cname("web", "a.cdn")]),
            _ => asked.answer(&[Record::cname("a.cdn", "b.cdn"), Record::a("b.cdn", [10, 0, 0, 1])]),
        }]
    })
    .await;
    assert_eq!(run("web", &server).ids().await, ["10.0.0.1:80"]);
}

#[tokio::test]
async fn services_are_listed_with_the_addresses_of_their_targets() {
    let services = |asked: &Asked| {
        let owner = &asked.name;
        asked.answer(&[
            Record::srv(owner, 1, 0, 5433, "b.db"),
            Record::srv(owner, 0, 3, 5432, "a.db"),
            Record::srv(owner, 0, 1, 1, "."),
        ])
    };
    let server = NameServer::start(move |asked| {
        vec![match (&*asked.name, asked.kind) {
            (_, SRV) => services(asked),
            ("a.db", _) => asked.answer(&[Record::a("a.db", [10, 0, 0, 1]), Record::a("a.db", [10, 0, 0, 2])]),
            _ => asked.answer(&[Record::a("b.db", [10, 0, 0, 3])]),
        }]
    })
    .await;
    let mut run = run("_pg._tcp.db", &server);
    let list = run.list().await;
    let short: Vec<_> = list.iter().map(|found| (&*found.id, found.weight, found.priority)).collect();
    assert_eq!(short, [("10.0.0.1:5432", 3, 0), ("10.0.0.2:5432", 3, 0), ("10.0.0.3:5433", 1, 1)]);

    // A target that has no address is just not there.
    server.change(move |asked| {
        vec![match (&*asked.name, asked.kind) {
            (_, SRV) => services(asked),
            ("a.db", _) => asked.reply(3, &[], &[]),
            _ => asked.answer(&[Record::a("b.db", [10, 0, 0, 3])]),
        }]
    });
    assert_eq!(run.ids().await, ["10.0.0.3:5433"]);

    // A target that cannot be asked for spoils the list.
    server.change(move |asked| {
        vec![match (&*asked.name, asked.kind) {
            (_, SRV) => services(asked),
            ("a.db", _) => asked.reply(2, &[], &[]),
            _ => asked.answer(&[Record::a("b.db", [10, 0, 0, 4])]),
        }]
    });
    assert!(run.error().await.contains("A of a.db"));
}

#[tokio::test]
async fn the_time_of_records_is_the_pause() {
    let server = NameServer::start(|asked| vec![asked.answer(&[Record::a_for("web", 3_600, [10, 0, 0, 1])])]).await;
    let settings = DnsSettings { ttl_max: Duration::from_secs(3_600), ..settings("web", &[server.address]) };
    let mut patient = Run::of(DnsSource::new(settings).unwrap());
    assert_eq!(patient.ids().await, ["10.0.0.1:80"]);
    let mut other = run("web", &server);
    assert_eq!(other.ids().await, ["10.0.0.1:80"]);
    for _ in 0..10 {
        other.alive().await;
    }
    drop(other);
    let of_patient = server.asked().len();
    assert!(of_patient >= 12, "the one with a limit asks again and again: {of_patient}");
    server.change(|asked| vec![asked.reply(2, &[], &[])]);
    assert!(tokio::time::timeout(Duration::from_millis(50), patient.event()).await.is_err(), "the other waits");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let new = |name: &str, port| DnsSource::new(DnsSettings { port, ..DnsSettings::new(name) });
    assert!(new("web.example.com.", Some(80)).is_ok() && new("_pg._tcp.example.com", None).is_ok());
    for (name, port, expected) in [
        ("", Some(80), "a domain name is"),
        ("a b", Some(80), "a domain name is"),
        ("http://web", Some(80), "a domain name is"),
        ("web", None, "addresses have no port"),
        ("web", Some(0), "port 0"),
        ("_pg._tcp.web", Some(80), "ports of their own"),
    ] {
        let error = new(name, port).expect_err(name);
        assert!(error.text().contains(expected), "{name}: {error}");
    }
}
