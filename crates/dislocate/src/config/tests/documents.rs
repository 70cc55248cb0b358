//! What is written about the configuration, against what it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::{Code, DEFAULT, load, parse, schema};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(directory)).expect("the directory is part of the repository");
    let paths = entries.map(|entry| entry.expect("a directory can be listed").path());
    paths.filter(|path| path.extension().is_some_and(|e| e == ending)).collect()
}

/// Every key of the schema by the heading that describes it, with its default as TOML has it.
fn keys_of_schema() -> BTreeMap<(String, String), Option<String>> {
    fn visit(table: &str, schema: &Value, keys: &mut BTreeMap<(String, String), Option<String>>) {
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            if !table.is_empty() {
                keys.insert((table.into(), key.clone()), schema.get("default").map(Value::to_string));
            }
            visit(key, schema, keys);
            visit(key, &schema["items"], keys);
            for branch in schema["anyOf"].as_array().into_iter().flatten() {
                visit(key, &branch["items"], keys);
            }
            for branch in schema["items"]["anyOf"].as_array().into_iter().flatten() {
                visit(key, branch, keys);
            }
        }
    }
    let mut keys = BTreeMap::new();
    visit("", schema(), &mut keys);
    keys
}

/// Every row of the manual's tables by its heading, with the default that it names.
fn keys_of_manual(manual: &str) -> BTreeMap<(String, String), Option<String>> {
    let mut keys = BTreeMap::new();
    let (mut heading, mut of_keys) = ("", false);
    for line in manual.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title;
        } else if line.starts_with("| key") {
            of_keys = true;
        } else if !line.starts_with('|') {
            of_keys = false;
        } else if let Some(row) = line.strip_prefix("| `").filter(|_| of_keys) {
            let mut cells = row.split(" | ");
            let key = cells.next().unwrap_or_default().trim_end_matches('`');
            let default = cells.next().unwrap_or_default();
            let default = default.strip_prefix('`').map(|text| text.trim_end_matches('`').to_owned());
            keys.insert((heading.to_owned(), key.to_owned()), default);
        }
    }
    keys
}

fn manual() -> String {
    std::fs::read_to_string(root().join("docs/configuration.md")).expect("the manual is part of the repository")
}

#[test]
fn the_manual_has_every_key_with_its_default_and_no_other() {
    assert_eq!(keys_of_manual(&manual()), keys_of_schema());
}

#[test]
fn the_manual_has_every_code_and_no_other() {
    let manual = manual();
    let (_, codes) = manual.split_once("## Codes").expect("the manual lists the codes");
    let listed: Vec<&str> = codes.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let known: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed, known);
}

#[test]
fn the_default_file_has_every_key() {
    let words: BTreeSet<&str> =
        DEFAULT.lines().filter_map(|l| l.trim_start_matches("# ").split_once(" = ")).map(|(key, _)| key).collect();
    for (table, key) in keys_of_schema().into_keys() {
        let as_table = DEFAULT.contains(&format!("[{table}.{key}]")) || DEFAULT.contains(&format!("[[{table}.{key}]]"));
        assert!(as_table || words.contains(key.as_str()), "{table}.{key} is not in the default file");
    }
}

#[test]
fn every_example_is_accepted() {
    let examples = files("deploy", "toml");
    assert!(!examples.is_empty(), "there is no example");
    for path in examples {
        let config = load(&path).unwrap_or_else(|report| panic!("an example is refused:\n{report}"));
        assert!(config.warnings.problems().is_empty(), "an example is not clean:\n{}", config.warnings);
    }
}

#[test]
fn every_snippet_of_the_manuals_is_accepted() {
    for path in files("docs", "md") {
        let text = std::fs::read_to_string(&path).expect("the manuals are text");
        for snippet in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            parse(&path.display().to_string(), snippet)
                .unwrap_or_else(|report| panic!("a snippet is refused:\n{report}"));
        }
    }
}
