use super::*;

/// A slice with these fields, as it is in a list.
fn slice_of(name: &str, fields: &str) -> String {
    format!(r#"{{"metadata": {{"name": "{name}", "resourceVersion": "5"}}, {fields}}}"#)
}

fn fields(endpoints: &str, ports: &str) -> String {
    format!(r#""addressType": "IPv4", "endpoints": {endpoints}, "ports": {ports}"#)
}

fn list(items: &str) -> String {
    format!(
        r#"{{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {{"resourceVersion": "7"}}, "items": {items}}}"#
    )
}

fn read_with(choice: &Choice, fields: &str) -> Slice {
    let page = page(list(&format!("[{}]", slice_of("web-1", fields))).as_bytes(), choice);
    page.expect("it is well-formed").slices.remove(0)
}

fn read(fields: &str) -> Slice {
    read_with(&Choice::default(), fields)
}

const HTTP: &str = r#"[{"name": "http", "port": 8080, "protocol": "TCP"}]"#;
const ONE: &str = r#"[{"addresses": ["10.0.0.1"]}]"#;

#[test]
fn conditions_become_a_state() {
    let state = |conditions: &str| {
        let endpoints = format!(r#"[{{"addresses": ["10.0.0.1", "10.0.0.9"] {conditions}}}]"#);
        let slice = read(&fields(&endpoints, HTTP));
        assert_eq!(slice.entries[0].0, "10.0.0.1:8080".parse().unwrap(), "the first address counts alone");
        (slice.entries[0].1.state, slice.entries[0].1.is_terminating)
    };
    let cases = [
        ("", State::Ready, false),
        (r#", "conditions": null"#, State::Ready, false),
        (r#", "conditions": {}"#, State::Ready, false),
        (r#", "conditions": {"ready": null}"#, State::Ready, false),
        (r#", "conditions": {"ready": true, "serving": true, "terminating": false}"#, State::Ready, false),
        (r#", "conditions": {"ready": false}"#, State::NotReady, false),
        (r#", "conditions": {"ready": false, "serving": true}"#, State::NotReady, false),
        (r#", "conditions": {"ready": false, "serving": true, "terminating": true}"#, State::Ending, true),
        (r#", "conditions": {"ready": false, "serving": false, "terminating": true}"#, State::NotReady, true),
        (r#", "conditions": {"ready": false, "terminating": true}"#, State::NotReady, true),
        // A Service that publishes pods which are not ready.
        (r#", "conditions": {"ready": true, "serving": false, "terminating": true}"#, State::Ready, true),
    ];
    for (conditions, expected, is_terminating) in cases {
        assert_eq!(state(conditions), (expected, is_terminating), "{conditions}");
    }
}

#[test]
fn a_port_is_chosen_by_name_by_number_or_because_it_is_the_only_one() {
    let dns = r#"[{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "metrics", "port": 9153}]"#;
    let unnamed = r#"[{"port": 80}]"#;
    let sctp = r#"[{"name": "a", "port": 1, "protocol": "SCTP"}, {"name": "b", "port": 2}]"#;
    let any = r#"[{"name": "", "port": null}]"#;
    let twice = r#"[{"name": "a", "port": 53}, {"name": "b", "port": 53}]"#;
    let (only, name, number) = (SlicePort::Only, |name: &str| SlicePort::Name(name.into()), SlicePort::Number);
    let cases = [
        (only.clone(), HTTP, Some(8080)),
        (only.clone(), unnamed, Some(80)),
        (only.clone(), twice, Some(53)),
        (only.clone(), sctp, Some(2)),
        (only.clone(), dns, None),
        (only.clone(), any, None),
        (only.clone(), "null", None),
        (only, r#"[{"port": 65536}, {"port": 0}, {"port": -1}]"#, None),
        (name("metrics"), dns, Some(9153)),
        (name("dns"), dns, Some(53)),
        (name("http"), dns, None),
        (name("a"), sctp, None),
        (name(""), unnamed, Some(80)),
        (number(9153), dns, Some(9153)),
        (number(80), dns, None),
        (number(80), any, Some(80)),
        (number(80), "[]", Some(80)),
        (number(80), "null", Some(80)),
    ];
    for (port, ports, expected) in cases {
        let slice = read_with(&Choice { port: port.clone(), ..Choice::default() }, &fields(ONE, ports));
        assert_eq!(slice.entries.first().map(|(address, _)| address.port()), expected, "{port:?} of {ports}");
        assert_eq!(slice.other_ports.is_some(), expected.is_none(), "{port:?} of {ports}");
        assert_eq!(slice.is_ambiguous, port == SlicePort::Only && ports == dns);
    }
    let slice = read_with(&Choice { port: number(80), ..Choice::default() }, &fields(ONE, dns));
    assert_eq!(slice.other_ports.as_deref(), Some("dns=53, dns-tcp=53, metrics=9153"));
    assert_eq!(read(&fields("[]", dns)).other_ports, None, "a slice without endpoints proves nothing");
}

#[test]
fn families_are_chosen_and_names_are_left_out() {
    let v6 = r#""addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}], "ports": [{"port": 80}]"#;
    let names = r#""addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}, {"addresses": ["b.example"]}],
        "ports": [{"port": 80}]"#;
    let found = |family: Family, fields: &str| {
        let slice = read_with(&Choice { family, ..Choice::default() }, fields);
        slice.entries.first().map(|(address, _)| address.to_string())
    };
    let v4 = fields(ONE, HTTP);
    assert_eq!(found(Family::Any, &v4).as_deref(), Some("10.0.0.1:8080"));
    assert_eq!(found(Family::V4, &v4).as_deref(), Some("10.0.0.1:8080"));
    assert_eq!(found(Family::V6, &v4), None);
    assert_eq!(found(Family::Any, v6).as_deref(), Some("[fd00::1]:80"));
    assert_eq!(found(Family::V6, v6).as_deref(), Some("[fd00::1]:80"));
    assert_eq!(found(Family::V4, v6), None);
    let slice = read(names);
    assert_eq!((slice.entries.len(), slice.left_out), (0, Some((2, "web-1: addresses of type `FQDN`".into()))));
}

#[test]
fn an_endpoint_without_an_address_of_its_kind_is_left_out_alone() {
    for bad in [r#""web.local""#, r#""10.0.0.1:80""#, r#""fd00::1""#, r#""10.0.0.01""#, "", r#""fe80::1%eth0""#] {
        let endpoints = format!(r#"[{{"addresses": [{bad}]}}, {{"addresses": null}}, {{"addresses": ["10.0.0.1"]}}]"#);
        let slice = read(&fields(&endpoints, HTTP));
        let (count, why) = slice.left_out.expect("two are left out");
        assert!(slice.entries.len() == 1 && count == 2 && why.contains("is not an address"), "{bad}: {why}");
    }
}

#[test]
fn zones_are_those_of_the_cluster_or_below_ours() {
    let found = |ours: Option<&str>, theirs: &str| {
        let choice = Choice { zone: ours.and_then(Zone::new), ..Choice::default() };
        let endpoints = format!(r#"[{{"addresses": ["10.0.0.1"], "zone": {theirs}, "nodeName": "n", "hints": {{}}}}]"#);
        let slice = read_with(&choice, &fields(&endpoints, HTTP));
        slice.entries[0].1.zone.as_ref().map(ToString::to_string)
    };
    let cases = [
        (None, "null", None),
        (None, r#""eu-1a""#, Some("eu-1a")),
        (None, r#""a b""#, None),
        (None, r#""a/b""#, None),
        (Some("fra"), r#""eu-1a""#, Some("fra/eu-1a")),
        (Some("fra"), "null", Some("fra")),
        (Some("fra"), r#""a b""#, Some("fra")),
        (Some("fra/a"), r#""eu-1a""#, Some("fra/a")),
    ];
    for (ours, theirs, expected) in cases {
        assert_eq!(found(ours, theirs).as_deref(), expected, "{ours:?} and {theirs}");
    }
}

#[test]
fn a_page_says_what_comes_next() {
    let more = list("[]").replace(r#""resourceVersion": "7""#, r#""resourceVersion": "7", "continue": "abc=="#);
    let more = more.replace("abc==", "abc==\"");
    let first = page(more.as_bytes(), &Choice::default()).unwrap();
    assert_eq!((&*first.version, first.more.as_deref(), first.slices.len()), ("7", Some("abc=="), 0));
    let last = page(list("null").as_bytes(), &Choice::default()).unwrap();
    assert_eq!((last.more, last.slices.len()), (None, 0));
    let empty = read(r#""addressType": "IPv4", "endpoints": null, "ports": null"#);
    assert_eq!((empty.entries.len(), empty.left_out, empty.other_ports), (0, None, None));
}

#[test]
fn what_is_no_page_is_refused() {
    let one = list(&format!("[{}]", slice_of("web-1", &fields(ONE, HTTP))));
    let cases = [
        ("".into(), "empty"),
        ("{}".into(), "missing field"),
        ("[]".into(), "expected an object"),
        ("<html>".into(), "expected value"),
        (one[..one.len() - 1].into(), "EOF"),
        (list("{}"), "expected an array"),
        (list("[]").replace("\"items\": []", "\"x\": []"), "missing field `items`"),
        (list("[]").replace("EndpointSliceList", "PodList"), "`PodList`, which is no list"),
        (list("[]").replace("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"), "no list of EndpointSlices"),
        (list("[]").replace("\"7\"", "\"\""), "without a resourceVersion"),
        (list("[]").replace("\"7\"", "7"), "invalid type: integer"),
        (list("[]").replace("\"7\"", &format!("\"{}\"", "7".repeat(1_000))), "too long"),
        (list("[{}]"), "without a name"),
        (list(&format!("[{}]", slice_of("web-1", r#""addressType": "IPv4""#))), "without endpoints"),
        (list(&format!("[{}]", slice_of("web-1", &fields("[[]]", HTTP)))), "expected an object"),
        (list(&format!("[{}]", slice_of("web-1", &fields(ONE, "[80]")))), "expected an object"),
        (list(&format!("[{}]", slice_of(&"x".repeat(300), &fields(ONE, HTTP)))), "without a name"),
        (
            r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 500}"#.into(),
            "missing field `items`",
        ),
    ];
    for (text, expected) in cases {
        let error = page(text.as_bytes(), &Choice::default()).expect_err(&text);
        assert!(error.text().contains(expected), "{expected}: {error} for {text}");
    }
}

#[test]
fn a_line_of_a_watch_is_an_event_or_an_error() {
    let object = |kind: &str, more: &str| {
        format!(
            r#"{{"kind": "{kind}", "apiVersion": "discovery.k8s.io/v1", "metadata": {{"name": "a", "resourceVersion": "9"}}{more}}}"#
        )
    };
    let event = |kind: &str, object: &str| {
        said(format!(r#"{{"object": {object}, "type": "{kind}"}}"#).as_bytes(), &Choice::default())
    };
    let slice = object("EndpointSlice", &format!(", {}", fields(ONE, HTTP)));
    for kind in ["ADDED", "MODIFIED"] {
        let Ok(Said::Put(slice, version)) = event(kind, &slice) else { panic!("{kind} puts") };
        assert_eq!((&*slice.name, slice.entries.len(), &*version), ("a", 1, "9"));
    }
    assert_eq!(event("DELETED", &slice), Ok(Said::Gone("a".into(), "9".into())));
    assert_eq!(event("BOOKMARK", &object("EndpointSlice", "")), Ok(Said::Bookmark("9".into())));
    let status = |code: i64| {
        format!(r#"{{"kind": "Status", "apiVersion": "v1", "metadata": {{}}, "message": "too old", "code": {code}}}"#)
    };
    assert_eq!(event("ERROR", &status(410)), Ok(Said::Expired));
    for (kind, object, expected) in [
        ("ERROR", status(500), "the watch failed: status 500: too old"),
        ("ERROR", "{}".into(), "the watch failed"),
        ("MOVED", slice.clone(), "unknown type `MOVED`"),
        ("ADDED", object("Pod", ""), "an event about a `Pod`"),
        ("ADDED", slice.replace("v1", "v2"), "an event about a `EndpointSlice`"),
        ("ADDED", slice.replace("\"9\"", "\"\""), "without a resourceVersion"),
        ("BOOKMARK", "{}".into(), "without a resourceVersion"),
        ("ADDED", "[]".into(), "expected an object"),
        ("ADDED", "null".into(), "expected an object"),
    ] {
        let error = event(kind, &object).expect_err(&object);
        assert!(error.text().contains(expected), "{expected}: {error}");
    }
    for (line, expected) in [("", "empty"), ("{}", "missing field"), ("[]", "expected an object")] {
        assert!(said(line.as_bytes(), &Choice::default()).expect_err(line).text().contains(expected), "{line}");
    }
}

#[test]
fn only_a_status_has_words() {
    assert_eq!(refusal(br#"{"kind": "Status", "message": "forbidden"}"#).as_deref(), Some("forbidden"));
    for other in [&br#"{"kind": "Status"}"#[..], br#"{"message": "x"}"#, b"Unauthorized", b""] {
        assert_eq!(refusal(other), None);
    }
}
