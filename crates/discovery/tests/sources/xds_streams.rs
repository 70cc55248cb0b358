//! What streams to a control plane come to: how they end, what the next one begins with, and who may have one.

use std::time::Duration;

use discovery::Event;
use discovery::sources::{TlsIdentity, TlsSettings, XdsSettings};
use h2::Reason;
use tokio::net::TcpListener;

use crate::certificates::Certificates;
use crate::support::{Run, Scratch, needs_tools, soon};
use crate::xds::{hasty, settings, settled, source};
use crate::xds_server::{ControlPlane, framed, head};
use crate::xds_types::{assignments, clusters, eds, endpoints};

#[tokio::test]
async fn a_new_stream_begins_where_the_last_one_ended() {
    let mut plane = ControlPlane::start().await;
    let source = source(XdsSettings { settle: Duration::from_millis(50), ..settings(&plane) });
    let (run, talk) = settled(&source, &mut plane).await;
    talk.reset(Reason::INTERNAL_ERROR);
    assert!(run.error().await.starts_with("http: "), "in the middle of the stream");

    // Nothing has changed, and nothing is said; that somebody is there is enough.
    let mut run = Run::again(&source);
    let mut talk = soon(plane.talk()).await;
    let (first, second) = (talk.heard().await, talk.heard().await);
    assert_eq!((first.initial_resource_versions["web"].as_str(), first.node.unwrap().id.as_str()), ("c1", "edge-1"));
    assert_eq!((second.initial_resource_versions["web"].as_str(), second.node), ("a1", None));
    assert_eq!(run.ids().await, ["10.0.0.1:80", "10.0.0.2:80"], "a run begins with a list");
    talk.cut();
    assert!(!run.error().await.is_empty());

    // What has changed is said, and nothing else.
    let mut run = Run::again(&source);
    let mut talk = soon(plane.talk()).await;
    talk.heard().await;
    talk.heard().await;
    talk.send(&assignments("1", "a2", &endpoints("web", &["10.0.0.2:80", "10.0.0.3:80"])));
    talk.accepted("1").await;
    // The sign of life may have been quicker.
    let list = run.ids().await;
    let list = if list.contains(&"10.0.0.1:80".into()) { run.ids().await } else { list };
    assert_eq!(list, ["10.0.0.2:80", "10.0.0.3:80"]);
}

#[tokio::test]
async fn a_control_plane_that_says_nothing_of_what_is_asked_anew_is_not_believed_to_agree() {
    let mut plane = ControlPlane::start().await;
    let source = source(XdsSettings { resync: Duration::from_millis(100), ..settings(&plane) });
    let (mut run, _talk) = settled(&source, &mut plane).await;
    // After a while everything is asked for anew.
    let mut talk = soon(plane.talk()).await;
    let question = talk.heard().await;
    assert!(question.initial_resource_versions.is_empty() && question.node.is_some());
    talk.send(&clusters("1", "c1", &eds("web", "")));
    talk.accepted("1").await;
    assert!(talk.heard().await.initial_resource_versions.is_empty());
    talk.send(&assignments("2", "a1", &endpoints("web", &["10.0.0.1:80", "10.0.0.2:80"])));
    talk.accepted("2").await;
    run.alive().await;
    drop(run);

    // One that is stuck keeps its connections and its pings.
    let mut plane = ControlPlane::start().await;
    let stuck = XdsSettings { resync: Duration::from_millis(100), settle: Duration::from_millis(50), ..hasty(&plane) };
    let source = self::source(stuck);
    let (run, _talk) = settled(&source, &mut plane).await;
    let _stuck = soon(plane.talk()).await;
    assert_eq!(run.error().await, "no answer about cluster `web` in 300 ms");
    let run = Run::again(&source);
    let mut talk = soon(plane.talk()).await;
    assert!(talk.heard().await.initial_resource_versions.is_empty(), "it is not offered to agree by silence");
    assert_eq!(run.error().await, "no answer about cluster `web` in 300 ms");
}

#[tokio::test]
async fn a_stream_that_ends_well_is_begun_again_without_an_error() {
    let mut plane = ControlPlane::start().await;
    let source = source(XdsSettings { settle: Duration::from_millis(50), ..settings(&plane) });
    let (mut run, talk) = settled(&source, &mut plane).await;
    talk.end("0", "");
    let mut talk = soon(plane.talk()).await;
    assert_eq!(talk.heard().await.initial_resource_versions["web"], "c1");
    run.alive().await;
    // Over and over without a word it is no use.
    talk.end("0", "");
    soon(plane.talk()).await.end("0", "");
    assert!(run.error().await.contains("before it had said anything of use"));
}

#[tokio::test]
async fn what_is_no_stream_of_grpc_is_an_error() {
    let mut plane = ControlPlane::start().await;
    let source = source(XdsSettings { message_max_bytes: 10_000, ..settings(&plane) });
    let heads = [
        (head(404, &[]), "status 404"),
        (head(200, &[("content-type", "text/html")]), "no gRPC, but `text/html`"),
        (head(200, &[]), "no gRPC, but ``"),
        (
            head(
                200,
                &[("content-type", "application/grpc"), ("grpc-status", "16"), ("grpc-message", "no%20token%0A")],
            ),
            "with status 16: no token",
        ),
        (head(200, &[("content-type", "application/grpc"), ("grpc-status", "x")]), "with status x"),
    ];
    for (head, expected) in heads {
        let run = Run::again(&source);
        soon(plane.talk()).await.refuse(head);
        let error = run.error().await;
        assert!(error.contains(expected), "{error}");
    }
    let ends: [(&str, &str, &str); 3] =
        [("14", "", "with status 14"), ("7", "who%3f", "with status 7: who?"), ("0", "", "anything of use")];
    for (status, words, expected) in ends {
        let run = Run::again(&source);
        soon(plane.talk()).await.end(status, words);
        let error = run.error().await;
        assert!(error.contains(expected), "{error}");
    }
    let run = Run::again(&source);
    soon(plane.talk()).await.hang_up();
    assert!(run.error().await.contains("without a status"));

    let message = framed(&[0x1a; 3]);
    let bytes: [(&[u8], &str); 5] = [
        (b"\x01\0\0\0\0", "compressed"),
        (b"\0\0\x01\0\0", "a message of 65536 bytes, and 10000 may be"),
        (b"\0\xff\xff\xff\xff", "bytes, and 10000 may be"),
        (b"<html>", "compressed"),
        (&message, "cannot be decoded"),
    ];
    for (bytes, expected) in bytes {
        let run = Run::again(&source);
        let mut talk = soon(plane.talk()).await;
        talk.send_bytes(bytes);
        let error = run.error().await;
        assert!(error.contains(expected), "{error}");
    }
    // Half a message, and then an end as if all were well.
    let run = Run::again(&source);
    let mut talk = soon(plane.talk()).await;
    talk.send_bytes(&message[..7]);
    talk.end("0", "");
    assert_eq!(run.error().await, "half a message");
}

#[tokio::test]
async fn slowness_and_dead_connections_are_errors() {
    let mut plane = ControlPlane::start().await;
    let (run, mut talk) = settled(&source(hasty(&plane)), &mut plane).await;
    let answer = framed(&prost::Message::encode_to_vec(&assignments("1", "a2", &endpoints("web", &[]))));
    talk.send_bytes(&answer[..answer.len() - 1]);
    assert_eq!(run.error().await, "a message that does not end");

    // A connection that is there, and nobody behind it.
    let ping = Duration::from_millis(50);
    let (mut run, talk) = settled(&source(XdsSettings { ping, ..hasty(&plane) }), &mut plane).await;
    run.alive().await;
    run.alive().await;
    talk.freeze();
    assert_eq!(run.error().await, "the control plane does not answer pings");

    // One that accepts and says nothing at all.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let urls = vec![format!("http://{}", listener.local_addr().unwrap())];
    let error = Run::again(&source(XdsSettings { urls, ..hasty(&plane) })).error().await;
    assert!(error.contains("no answer about cluster") || error.contains("no connection"), "{error}");

    // And one that is not there; the next one is asked then.
    drop(listener);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let both = source(XdsSettings { urls: vec![format!("http://{gone}"), plane.url()], ..settings(&plane) });
    assert!(Run::again(&both).error().await.contains("connect to 127.0.0.1"));
    settled(&both, &mut plane).await;
}

#[tokio::test]
async fn a_control_plane_that_wants_fewer_pings_is_left_alone() {
    let mut plane = ControlPlane::start().await;
    let quick = XdsSettings { ping: Duration::from_millis(50), settle: Duration::from_millis(50), ..settings(&plane) };
    let (mut run, mut talk) = settled(&source(quick), &mut plane).await;
    run.alive().await;
    // The stream itself may hear of it too.
    for has_status in [false, true] {
        match has_status {
            false => talk.go_away(Reason::ENHANCE_YOUR_CALM),
            true => talk.end_all("14", "Too many pings", Reason::ENHANCE_YOUR_CALM),
        }
        // It returns without an error, and with what it knew.
        talk = loop {
            tokio::select! {
                talk = plane.talk() => break talk,
                event = run.event() => assert_eq!(event, Event::Alive),
            }
        };
        assert_eq!(soon(talk.request()).await.unwrap().initial_resource_versions["web"], "c1");
        run.alive().await;
    }
    // Any other reason is an error.
    talk.go_away(Reason::INADEQUATE_SECURITY);
    assert!(run.error().await.starts_with("http: "));
}

#[tokio::test]
async fn a_token_is_read_for_each_stream() {
    let scratch = Scratch::new("xds-token");
    let token = scratch.join("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    let mut plane = ControlPlane::start().await;
    let source = source(XdsSettings { token_file: Some(token.clone()), ..settings(&plane) });
    let (run, talk) = settled(&source, &mut plane).await;
    assert_eq!(talk.head.headers["authorization"], "Bearer t0ken");
    std::fs::write(&token, "n3w").unwrap();
    talk.end("16", "it has run out");
    assert!(run.error().await.contains("status 16"));
    let run = Run::again(&source);
    assert_eq!(soon(plane.talk()).await.head.headers["authorization"], "Bearer n3w");
    drop(run);
    std::fs::remove_file(&token).unwrap();
    let error = Run::again(&source).error().await;
    assert!(error.contains("token") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn a_control_plane_is_known_by_its_certificate_and_knows_ours() {
    if !needs_tools(&["openssl"]) {
        return;
    }
    let all = Certificates::new("xds");
    let mut plane = ControlPlane::with_tls(all.acceptor_of(true, b"h2")).await;
    let urls = vec![plane.url().replace("http:", "https:")];
    let identity = TlsIdentity { cert_file: all.file("client.pem"), key_file: all.file("client.key") };
    let tls = TlsSettings { identity: Some(identity), ..all.settings() };
    let (_run, talk) = settled(&source(XdsSettings { urls: urls.clone(), tls, ..settings(&plane) }), &mut plane).await;
    assert_eq!(talk.head.uri.scheme_str(), Some("https"));

    let tls = TlsSettings { ca_file: Some(all.file("other.pem")), ..all.settings() };
    let error = Run::again(&source(XdsSettings { urls: urls.clone(), tls, ..settings(&plane) })).error().await;
    assert!(error.contains("certificate"), "{error}");
    // A server that speaks another protocol says so before a word of ours.
    let plane = ControlPlane::with_tls(all.acceptor_of(false, b"http/1.1")).await;
    let urls = vec![plane.url().replace("http:", "https:")];
    let error = Run::again(&source(XdsSettings { urls, tls: all.settings(), ..settings(&plane) })).error().await;
    assert!(error.to_lowercase().contains("protocol"), "{error}");
}
