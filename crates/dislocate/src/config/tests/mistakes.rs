//! One table of mistakes, each with the code, the place and the advice that it gets.

use super::super::limits;
use super::{BACKENDS, LISTEN, bad, codes, with};

/// A mistake in a listener's or service's lines, and what is said about it: code, line, column, a part of the help.
struct Case {
    listener: &'static str,
    service: &'static str,
    said: (&'static str, usize, usize, &'static str),
}

fn check(cases: &[Case]) {
    for case in cases {
        let report = bad(&with(case.listener, case.service));
        let [problem] = report.problems() else { panic!("one mistake is not one problem:\n{report}") };
        let place = report.place(problem);
        let (code, line, column, help) = case.said;
        assert_eq!((problem.code.as_str(), place.line, place.column), (code, line, column), "\n{report}");
        let given = problem.help.as_deref().unwrap_or_default();
        assert!(given.contains(help), "the help lacks {help:?}:\n{report}");
    }
}

/// A case in the listener, whose own line is the fourth of the text.
const fn listener(line: &'static str, said: (&'static str, usize, usize, &'static str)) -> Case {
    Case { listener: line, service: BACKENDS, said }
}

/// A case in the service, whose own line is the eighth of the text.
const fn service(line: &'static str, said: (&'static str, usize, usize, &'static str)) -> Case {
    Case { listener: LISTEN, service: line, said }
}

#[test]
fn a_listener_that_is_wrong_is_told_where_and_how() {
    check(&[
        listener("", ("missing-key", 1, 1, "add `listen = …`")),
        listener("lisen = \"127.0.0.1:80\"", ("unknown-key", 4, 1, "did you mean `listen`?")),
        listener("bind = \"127.0.0.1:80\"", ("unknown-key", 4, 1, "did you mean `listen`?")),
        listener("listen = 80", ("wrong-type", 4, 10, "")),
        listener("listen = [80]", ("wrong-type", 4, 11, "")),
        listener("listen = []", ("out-of-range", 4, 10, "1 to 1024 entries")),
        listener("listen = \":80\"", ("invalid-address", 4, 10, "[::]:80")),
        listener("listen = \"*:80\"", ("invalid-address", 4, 10, "0.0.0.0:80")),
        listener("listen = \"localhost:80\"", ("invalid-address", 4, 10, "127.0.0.1:80")),
        listener("listen = \"::1:80\"", ("invalid-address", 4, 10, "[::1]:80")),
        listener("listen = \"10.0.0.1\"", ("invalid-address", 4, 10, "IP:PORT")),
        listener("listen = \"10.0.0.1:+80\"", ("invalid-address", 4, 10, "IP:PORT")),
        listener("listen = \"10.0.0.1:65536\"", ("invalid-address", 4, 10, "IP:PORT")),
        listener("listen = \"10.0.0.1:9-5\"", ("invalid-address", 4, 10, "lower to the higher")),
        listener("listen = \"10.0.0.1:0-5\"", ("invalid-address", 4, 10, "not from 0")),
        listener("listen = \"10.0.0.1:1-1025\"", ("out-of-range", 4, 10, "at most 1024")),
        listener("listen = [\"192.0.2.1:1-1024\", \"192.0.2.2:80-81\"]", ("out-of-range", 4, 10, "several listeners")),
        listener("listen = \"unix:run/x\"", ("invalid-address", 4, 10, "absolute")),
        listener("listen = [\"[::]:80\", \"0.0.0.0:80\"]", ("address-conflict", 4, 22, "takes IPv4 too")),
        listener("listen = [\"0.0.0.0:80\", \"10.0.0.2:79-81\"]", ("address-conflict", 4, 25, "wildcard")),
        listener("listen = [\"unix:/x\", \"unix:/x\"]", ("address-conflict", 4, 22, "its own")),
        listener("listen = \"127.0.0.1:9901\"", ("address-conflict", 4, 10, "its own")),
        listener("listen = \"unix:/x\"\nprotocol = \"tcp\"", ("contradiction", 5, 12, "left out")),
        listener("listen = \"127.0.0.1:80\"\nprotocol = \"stream\"", ("contradiction", 5, 12, "left out")),
        listener("listen = \"127.0.0.1:80\"\nprotocol = \"tpc\"", ("unknown-value", 5, 12, "did you mean \"tcp\"")),
        listener("listen = \"127.0.0.1:80\"\nidle_timeout = 5", ("wrong-type", 5, 16, "")),
        listener("listen = \"127.0.0.1:80\"\nidle_timeout = \"5 parsecs\"", ("invalid-duration", 5, 16, "\"1h\"")),
        listener("listen = \"127.0.0.1:80\"\nidle_timeout = \"0s\"", ("out-of-range", 5, 16, "1ms to 365d")),
        listener("listen = \"127.0.0.1:80\"\nidle_timeout = \"366d\"", ("out-of-range", 5, 16, "1ms to 365d")),
        listener("listen = \"127.0.0.1:80\"\nkeepalive = \"500ms\"", ("out-of-range", 5, 13, "1s to 32767s")),
        listener("listen = \"127.0.0.1:80\"\nretries = -1", ("out-of-range", 5, 11, "0 to 10")),
        listener("listen = \"127.0.0.1:80\"\nretries = 99999999999999999999", ("out-of-range", 5, 11, "0 to 10")),
        listener("listen = \"127.0.0.1:80\"\nretries = 1.5", ("wrong-type", 5, 11, "")),
        listener("listen = \"127.0.0.1:80\"\nmax_connections = 0", ("out-of-range", 5, 19, "1 to")),
        listener("listen = \"127.0.0.1:80\"\nallow = []", ("unknown-key", 5, 1, "known here")),
        listener("listen = \"127.0.0.1:80\"\nsplice = 1979-05-27", ("wrong-type", 5, 10, "")),
    ]);
}

#[test]
fn a_service_that_is_wrong_is_told_where_and_how() {
    check(&[
        service("", ("missing-key", 6, 1, "add `backends = …`")),
        service("backends = []", ("out-of-range", 8, 12, "1 to 4096")),
        service("servers = [\"10.0.0.1:80\"]", ("unknown-key", 8, 1, "did you mean `backends`?")),
        service("backends = \"10.0.0.1:80\"", ("wrong-type", 8, 12, "")),
        service("backends = [\"db:80\"]", ("invalid-address", 8, 13, "host name")),
        service("backends = [\"10.0.0.1\"]", ("invalid-address", 8, 13, "port is missing")),
        service("backends = [\"0.0.0.0:80\"]", ("invalid-address", 8, 13, "wildcard")),
        service("backends = [\"224.0.0.1:80\"]", ("invalid-address", 8, 13, "multicast")),
        service("backends = [\"127.0.0.1:80\"]", ("proxy-loop", 8, 13, "really serves")),
        service("backends = [\"10.0.0.1:80\", \"10.0.0.1:80\"]", ("duplicate", 8, 28, "raise its weight")),
        service("backends = [{ weight = 2 }]", ("missing-key", 8, 13, "add `address = …`")),
        service("backends = [{ address = \"10.0.0.1:80\", weight = 65536 }]", ("out-of-range", 8, 49, "0 to 65535")),
        service("backends = [{ address = \"10.0.0.1:80\", zone = \"a/b/c\" }]", ("invalid-name", 8, 47, "dc/zone")),
        service(
            "backends = [{ address = \"10.0.0.1:80\", priority = 0, backup = true }]",
            ("contradiction", 8, 63, "write one"),
        ),
        service("backends = [\"10.0.0.1:80\"]\nbalance = \"roundrobin\"", ("unknown-value", 9, 11, "\"round_robin\"")),
        service("backends = [\"10.0.0.1:80\"]\npanic_threshold = 101", ("out-of-range", 9, 19, "0 to 100")),
    ]);
}

#[test]
fn a_check_that_is_wrong_is_told_where_and_how() {
    // The mistake stands between the bars.
    let cases = [
        ("{ kind = |\"htp\"| }", "unknown-value", "did you mean \"http\""),
        ("{ kind = |\"udp\"| }", "missing-key", "hex"),
        ("{ kind = \"udp\", send = |\"\"| }", "invalid-value", "replies to"),
        ("{ kind = \"udp\", send = { hex = |\"123\"| } }", "invalid-value", "two digits"),
        ("{ kind = \"udp\", send = |{ }| }", "missing-key", "hex"),
        ("{ kind = \"udp\", send = { hex = \"12\", |x| = 1 } }", "unknown-key", "hex"),
        ("{ kind = \"udp\", send = \"x\", expect = |[\"x\", \"y\"]| }", "invalid-value", "a text"),
        ("{ kind = \"udp\", send = \"x\", path = |\"/\"| }", "contradiction", "kind = \"http\""),
        ("{ send = |\"x\"| }", "contradiction", "kind = \"udp\""),
        ("{ expect = |\"x\"| }", "contradiction", "`kind = \"http\"` or `kind = \"udp\"`"),
        ("{ kind = \"http\", expect = |{ hex = \"12\" }| }", "invalid-value", "udp"),
        ("{ port = |0| }", "out-of-range", "1 to 65535"),
        ("{ kind = \"exec\", command = [\"/x\"], port = |1| }", "contradiction", "kind = \"tcp\""),
        ("{ kind = |\"exec\"| }", "missing-key", "program"),
        ("{ path = |\"/\"| }", "contradiction", "kind = \"http\""),
        ("{ kind = \"exec\", command = |[\"check\"]| }", "invalid-value", "absolute"),
        ("{ kind = \"exec\", command = |[]| }", "invalid-value", "absolute"),
        ("{ kind = \"http\", path = |\"up\"| }", "invalid-value", "begins with"),
        ("{ kind = \"http\", path = |\"/ HTTP/1.1\\r\\nX: y\"| }", "invalid-value", "no spaces"),
        ("{ kind = \"http\", host = |\"\"| }", "invalid-value", "name"),
        ("{ kind = \"http\", expect = |99| }", "out-of-range", "100 to 599"),
        ("{ kind = \"http\", expect = |\"2xx\"| }", "invalid-value", "200-299"),
        ("{ kind = \"http\", expect = [|\"299-200\"|] }", "invalid-value", "200-299"),
        ("{ interval = |\"0s\"| }", "out-of-range", "10ms"),
        ("{ timeout = |\"6s\"| }", "contradiction", "at most `interval`"),
        ("{ rise = |0| }", "out-of-range", "1 to 100"),
    ];
    for (marked, code, help) in cases {
        let prefix = "health = ";
        let parts: Vec<&str> = marked.split('|').collect();
        let column = prefix.len() + parts[0].len() + 1;
        let report = bad(&with(LISTEN, &format!("{BACKENDS}\n{prefix}{}", parts.concat())));
        let [problem] = report.problems() else { panic!("one mistake is not one problem:\n{report}") };
        let place = report.place(problem);
        let expected = (code, 9, column, column + parts[1].len() - 1);
        assert_eq!((problem.code.as_str(), place.line, place.column, place.end_column), expected, "\n{report}");
        assert!(problem.help.as_deref().unwrap_or_default().contains(help), "the help lacks {help:?}:\n{report}");
    }
}

#[test]
fn a_node_that_is_wrong_is_told_where_and_how() {
    let cases = [
        ("[node]\nzome = \"fra\"", "unknown-key", (2, 1), "did you mean `zone`?"),
        ("[node]\nstate_dir = \"x\"", "invalid-value", (2, 13), "absolute"),
        ("[node]\nname = \"a b\"", "invalid-name", (2, 8), "letters"),
        ("[node]\nzone = \"a/\"", "invalid-name", (2, 8), "dc/zone"),
        ("[node]\nlog = \"sterr\"", "invalid-value", (2, 7), "did you mean `stderr`?"),
        ("[node]\nlog = \"x.log\"", "invalid-value", (2, 7), "a path with a `/`"),
        ("[node]\nworkers = 1025", "out-of-range", (2, 11), "0 to 1024"),
        ("[[node]]\nworkers = 1", "wrong-type", (1, 1), "one bracket: [node]"),
        ("node = 1", "wrong-type", (1, 8), ""),
        ("[admin]\nlisten = \"0.0.0.0:9901\"", "not-built", (2, 10), "ssh"),
        ("[admin]\nlisten = \"127.0.0.1:1-2\"", "invalid-address", (2, 10), "write one"),
        ("[admin]\ntokens_file = \"/x\"", "not-built", (2, 1), "loopback"),
        ("[frontend]", "unknown-key", (1, 2), "did you mean `listener`?"),
    ];
    for (head, code, at, help) in cases {
        let report = bad(&format!("{head}\n{}", with(LISTEN, BACKENDS)));
        let [problem] = report.problems() else { panic!("one mistake is not one problem:\n{report}") };
        let place = report.place(problem);
        assert_eq!((problem.code.as_str(), (place.line, place.column)), (code, at), "\n{report}");
        assert!(problem.help.as_deref().unwrap_or_default().contains(help), "the help lacks {help:?}:\n{report}");
    }
}

#[test]
fn what_tables_say_about_each_other_is_checked() {
    let service = |name: &str, backend: &str| format!("[[service]]\nname = \"{name}\"\nbackends = [\"{backend}\"]\n");
    let listener = |name: &str, listen: &str, service: &str| {
        format!("[[listener]]\nname = \"{name}\"\nlisten = \"{listen}\"\nservice = \"{service}\"\n")
    };
    let web = service("web", "10.0.0.1:80");
    let cases = [
        (listener("a", "127.0.0.1:1", "wbe") + &web, "unknown-service", "did you mean `web`?"),
        (listener("a", "127.0.0.1:1", "") + &web, "unknown-service", "add a [[service]]"),
        (listener("a", "127.0.0.1:1", "web") + &web + &web, "duplicate", "its own name"),
        (
            listener("a", "127.0.0.1:1", "web") + &listener("a", "127.0.0.1:2", "web") + &web,
            "duplicate",
            "its own name",
        ),
        (
            listener("a", "0.0.0.0:1", "web") + &listener("b", "127.0.0.1:1", "web") + &web,
            "address-conflict",
            "wildcard",
        ),
        (
            listener("a", "10.0.0.1:1-9", "web") + &listener("b", "10.0.0.1:5-20", "web") + &web,
            "address-conflict",
            "its own",
        ),
        (listener("a", "[::]:1", "web") + &service("web", "127.0.0.1:1"), "proxy-loop", "really serves"),
        (listener("a", "0.0.0.0:1", "web") + &service("web", "127.9.9.9:1"), "proxy-loop", "really serves"),
        (listener("a", "unix:/x", "web") + &service("web", "unix:/x"), "proxy-loop", "really serves"),
        (listener("a", "127.0.0.1:1", "web") + &service("web", "127.0.0.1:9901"), "proxy-loop", "really serves"),
    ];
    for (text, code, help) in cases {
        let report = bad(&text);
        let first = report.problems().iter().find(|problem| problem.code.as_str() == code);
        let problem = first.unwrap_or_else(|| panic!("{code} is not found:\n{report}"));
        assert!(problem.help.as_deref().unwrap_or_default().contains(help), "the help lacks {help:?}:\n{report}");
        let others = codes(&report).into_iter().filter(|&other| other != code && other != "unused-service").count();
        assert_eq!(others, 0, "one mistake brings up others:\n{report}");
    }
}

#[test]
fn addresses_that_only_look_alike_do_not_collide() {
    for listen in [
        r#"["127.0.0.1:0", "127.0.0.1:0"]"#,
        r#"["0.0.0.0:80", "[::1]:80"]"#,
        r#"["127.0.0.1:80", "[::1]:80", "127.0.0.2:80"]"#,
        r#"["127.0.0.1:80", "unix:/x", "unix:/y"]"#,
    ] {
        super::good(&with(&format!("listen = {listen}"), BACKENDS));
    }
}

#[test]
fn a_service_that_is_listened_to_but_unreadable_is_not_called_undefined() {
    for service in ["[[service]]\nname = 5", "[service]\nname = \"web\"", "service = 5", "service = [5]"] {
        let listener = "[[listener]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\nservice = \"web\"\n";
        let text =
            if service.starts_with('[') { format!("{listener}{service}") } else { format!("{service}\n{listener}") };
        let report = bad(&text);
        assert!(!codes(&report).contains(&"unknown-service"), "one mistake brings up others:\n{report}");
    }
}

#[test]
fn a_text_that_is_not_toml_is_refused_at_each_place_where_it_breaks() {
    let report = bad("a = \n[x\n");
    let lines: Vec<usize> = report.problems().iter().map(|problem| report.place(problem).line).collect();
    assert_eq!((codes(&report), lines), (vec!["syntax", "syntax"], vec![1, 2]), "\n{report}");
    for text in ["a = 1\na = 2", "[node", "name = \"x", "\u{0}", "[node]\n[node]"] {
        assert!(codes(&bad(text)).contains(&"syntax"), "{text:?} passes for TOML");
    }
}

#[test]
fn an_empty_file_has_no_listener() {
    for text in ["", "\n\n", "# nothing\n", "\u{feff}", "[node]\n"] {
        let report = bad(text);
        assert_eq!(codes(&report), ["missing-key"], "\n{report}");
        assert!(report.to_string().contains("[[listener]]"), "what to add is not said:\n{report}");
    }
}

#[test]
fn mistakes_of_every_kind_are_found_in_one_go() {
    let listener = "listen = \"*:80\"\nfoo = 1\nbar = 2\nretries = 99\nidle_timeout = \"x\"";
    let service = "backends = [\"db\", 5]\nbalance = \"latncy\"\nhealth = { rise = \"two\" }";
    let report =
        bad(&(with(listener, service) + "[[listener]]\nname = \"web\"\nlisten = \"[::1]:1\"\nservice = \"w\"\n"));
    let expected = [
        "invalid-address",
        "unknown-key",
        "unknown-key",
        "out-of-range",
        "invalid-duration",
        "invalid-address",
        "wrong-type",
        "unknown-value",
        "wrong-type",
        "duplicate",
        "unknown-service",
    ];
    assert_eq!(codes(&report), expected, "\n{report}");
}

#[test]
fn a_report_lists_so_many_problems_and_counts_the_rest() {
    let keys: String = (0..limits::MAX_PROBLEMS + 7).map(|n| format!("zzzzzzzz{n} = 1\n")).collect();
    let report = bad(&(keys + &with(LISTEN, BACKENDS)));
    assert_eq!((report.problems().len(), report.omitted()), (limits::MAX_PROBLEMS, 7));
    assert!(report.to_string().contains("and 7 more"), "what is left out is not said");
}
