//! What the documentation says, against the repository: links lead somewhere, configurations are valid, tests that are
//! named exist, and every value of a closed set is explained.

// A test's failure is a panic, and what a helper unwraps is the repository, not the program.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use balance::{ConnectFailure, PickReason, Standing, Use};
use discovery::{Refusal, SourceState, Update};
use proxy::{AcceptError, Dropped, Limit, Moved, Reason};

#[test]
fn every_value_of_a_closed_set_is_documented_and_no_other() {
    let retries = ConnectFailure::ALL.map(ConnectFailure::as_str).into_iter().chain(["local"]);
    let sets: [(&str, Vec<&str>); 15] = [
        ("reason of a session", Reason::ALL.map(Reason::as_str).into()),
        ("reason of a pick", PickReason::ALL.map(PickReason::as_str).into()),
        ("reason of a failed connection", ConnectFailure::ALL.map(ConnectFailure::as_str).into()),
        ("reason of a retry", retries.collect()),
        ("limit", Limit::ALL.map(Limit::as_str).into()),
        ("errno", AcceptError::ALL.map(AcceptError::as_str).into()),
        ("state of a backend", Standing::ALL.map(Standing::as_str).into()),
        ("state of pipes", ["busy", "idle"].into()),
        ("use of descriptors", Use::ALL.map(Use::as_str).into()),
        ("reason of a dropped datagram", Dropped::ALL.map(Dropped::as_str).into()),
        ("reason of a move", Moved::ALL.map(Moved::as_str).into()),
        ("state of a source", SourceState::ALL.map(SourceState::as_str).into()),
        ("result of an update", Update::ALL.map(Update::as_str).into()),
        ("reason of a refused endpoint", Refusal::ALL.map(Refusal::as_str).into()),
        ("result of a reload", ["ok", "refused", "unchanged"].into()),
    ];
    let page = read(&root().join("docs/metrics.md"));
    let (_, closed) = page.split_once("## Closed sets").expect("the page has the closed sets");
    let sections: Vec<&str> = closed.split("\n### ").skip(1).collect();
    assert_eq!(sections.len(), sets.len(), "the page has a section for each closed set");
    for (heading, values) in sets {
        let section = sections.iter().find(|section| section.lines().next() == Some(heading));
        let section = section.unwrap_or_else(|| panic!("the page has a section {heading:?}"));
        let documented: Vec<&str> = section.lines().filter_map(first_cell).collect();
        assert_eq!(documented, values, "{heading} is documented as the code has it, in the same order");
    }
}

#[test]
fn every_link_leads_to_something_that_is_there() {
    for page in pages() {
        let text = read(&page);
        for target in links(&text) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let at = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(at.exists(), "{}: the link to {target} is dead", page.display());
            if !heading.is_empty() {
                let there = read(&at).lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(there, "{}: no heading for the link to {target}", page.display());
            }
        }
    }
}

#[test]
fn every_whole_configuration_passes_the_check() {
    let file = std::env::temp_dir().join(format!("dislocate-documents-{}.toml", std::process::id()));
    let mut checked = 0;
    for page in pages() {
        let text = read(&page);
        let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for block in blocks.filter(|block| block.contains("[[listener]]")) {
            fs::write(&file, block).unwrap();
            let output = check(&file);
            assert!(output.status.success(), "{}: {output:?} for\n{block}", page.display());
            checked += 1;
        }
    }
    fs::remove_file(&file).unwrap();
    assert!(checked >= 2, "README.md and docs/configuration.md each have a whole configuration");
}

#[test]
fn every_test_that_is_named_exists() {
    let mut named = 0;
    for page in pages() {
        let text = read(&page);
        for (file, test) in quoted(&text).filter_map(|words| words.split_once(".rs::")) {
            let file = format!("{file}.rs");
            let source = root().join(&file);
            assert!(source.exists(), "{}: {file} is not there", page.display());
            let there = read(&source).contains(&format!("fn {test}("));
            assert!(there, "{}: {file} has no {test}", page.display());
            named += 1;
        }
    }
    assert!(named >= 40, "the tables of traps and faults name their tests, not {named} only");
}

#[test]
fn every_file_that_is_named_exists() {
    for page in pages() {
        let text = read(&page);
        let paths = quoted(&text).filter(|words| !words.contains([' ', '{', '*', ':']) && is_path(words));
        for path in paths {
            let there = root().join(path.trim_end_matches('/')).exists();
            assert!(there, "{}: {path} is not there", page.display());
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page for readers.
fn pages() -> Vec<PathBuf> {
    let markdown = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect::<Vec<_>>()
    };
    let pages = [markdown("."), markdown("docs")].concat();
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        assert!(pages.iter().any(|page| page.ends_with(name)), "{name} is there");
    }
    pages
}

fn check(config: &Path) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_dislocate")).args(["check", "-c"]).arg(config).output().unwrap()
}

/// The value in the first cell of a row such as ``| `value` | meaning |``.
fn first_cell(line: &str) -> Option<&str> {
    line.strip_prefix("| `")?.split('`').next()
}

/// Targets of the links to files of this repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

/// What stands between backticks on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter(|line| !line.starts_with("```"));
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn is_path(words: &str) -> bool {
    let folders = ["crates/", "tests/", "docs/", "deploy/", "benches/", "fuzz/", ".ci/"];
    folders.iter().any(|folder| words.starts_with(folder))
}

/// The anchor that forges give to a heading.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
