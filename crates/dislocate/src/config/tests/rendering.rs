//! How reports look.

use super::super::{Report, load, parse};
use super::{BACKENDS, LISTEN, bad, with};

#[test]
fn people_see_the_line_the_place_and_the_advice() {
    let report = bad(&with("lisen = \"127.0.0.1:80\"", BACKENDS));
    let expected = "\
error[unknown-key]: unknown key `lisen` in [[listener]]
 --> test.toml:4:1
  |
4 | lisen = \"127.0.0.1:80\"
  | ^^^^^
  |
  = help: did you mean `listen`?

";
    assert_eq!(report.to_string(), expected);
    assert!(report.render(true).contains("\u{1b}["), "a terminal gets no colours");
}

#[test]
fn people_see_the_other_place_too() {
    let report = bad(&with(LISTEN, "backends = [\"10.0.0.1:80\",\n\n  \"10.0.0.1:80\"]"));
    let text = report.to_string();
    assert!(text.contains("test.toml:10:3") && text.contains("first here"), "a place is missing:\n{text}");
}

#[test]
fn programs_get_a_list_of_entries() {
    let text = with(LISTEN, "backends = [\"10.0.0.1:80\", { address = \"10.0.0.2:80\", wieght = 2 }]");
    let json = bad(&text).json();
    let expected = serde_json::json!([{
        "code": "unknown-key", "severity": "error", "file": "test.toml",
        "line": 8, "column": 55, "end_line": 8, "end_column": 60, "key": "service[0].backends[1].wieght",
        "message": "unknown key `wieght` in `backends`", "help": "did you mean `weight`?",
    }]);
    assert_eq!(json, expected);
}

#[test]
fn columns_count_characters() {
    let report =
        bad("node = { name = \"ü\", zone = 5 }\n[[listener]]\nname = \"a\"\nlisten = \"[::1]:1\"\nservice = 1");
    let columns: Vec<_> = report.problems().iter().map(|problem| report.place(problem).column).collect();
    assert_eq!(columns, [17, 29, 11], "\n{report}");
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let report = bad("\"\\u001b[31m\\u0007\" = 1\n[node]\nname = \"\\u001b]0;x\\u0007\"\nzone = \"a\u{7f}\"");
    let text = report.to_string();
    let controls = text.chars().filter(|c| c.is_control() && *c != '\n').count();
    assert_eq!(controls, 0, "a file writes on the terminal: {text:?}");
}

#[test]
fn a_huge_line_is_not_shown() {
    let report = bad(&format!("x = \"{}\"", "y".repeat(1 << 20)));
    let longest = report.to_string().lines().map(str::len).max();
    assert!(longest < Some(1000), "a line of a megabyte is printed");
    assert!(report.to_string().contains("test.toml:1"), "the place is not said");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_what_to_do() {
    let report: Report = load("/nonexistent/dislocate.toml".as_ref()).expect_err("a missing file is taken");
    let text = report.to_string();
    for part in ["unreadable", "/nonexistent/dislocate.toml", "No such file", "-c FILE"] {
        assert!(text.contains(part), "{part:?} is not said:\n{text}");
    }
    assert_eq!(report.json()[0]["line"], 1);
}

#[test]
fn a_good_file_has_an_empty_list() {
    let config = parse("test.toml", &with(LISTEN, BACKENDS)).unwrap();
    assert_eq!(config.warnings.json(), serde_json::json!([]));
    assert_eq!(config.warnings.to_string(), "");
}
