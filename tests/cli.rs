//! The command line of the built binary: what it prints, where, and how it exits.

use std::path::PathBuf;
use std::process::{Command, Output};

/// A directory of this test's own, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("dislocate-cli-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        Self(dir)
    }

    fn file(&self, content: &str) -> String {
        let path = self.0.join("dislocate.toml");
        std::fs::write(&path, content).expect("the temporary directory is writable");
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in the temporary directory hurts nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn dislocate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dislocate")).args(args).output().expect("the binary was built")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("the output is text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("the output is text")
}

const BAD: &str = "[[listener]]\nname = \"a\"\nlisen = \"[::1]:1\"\nservice = \"b\"\n";

#[test]
fn check_sums_up_a_good_file() {
    let scratch = Scratch::new("good");
    let default = dislocate(&["config", "default"]);
    let path = scratch.file(stdout(&default));

    let output = dislocate(&["check", "-c", &path]);

    assert_eq!(output.status.code(), Some(0), "a good file is refused: {}", stderr(&output));
    assert_eq!(stdout(&output), format!("{path}: ok, 1 listener, 1 service, 1 backend, 0 warnings\n"));
    assert_eq!(stderr(&output), "");
}

#[test]
fn check_takes_a_file_with_warnings() {
    let scratch = Scratch::new("warnings");
    let default = dislocate(&["config", "default"]);
    let spare = "[[service]]\nname = \"spare\"\nbackends = [\"10.0.0.1:1\"]\n";
    let path = scratch.file(&format!("{}\n{spare}", stdout(&default)));

    let output = dislocate(&["check", "-c", &path]);

    assert_eq!(output.status.code(), Some(0), "a warning is fatal: {}", stderr(&output));
    assert!(stdout(&output).ends_with("1 warning\n"), "warnings are not counted: {}", stdout(&output));
    assert!(stderr(&output).contains("warning[unused-service]"), "a warning is not shown: {}", stderr(&output));
}

#[test]
fn check_and_run_refuse_a_bad_file_alike() {
    let scratch = Scratch::new("bad");
    let path = scratch.file(BAD);

    let checked = dislocate(&["check", "--config", &path]);
    let run = dislocate(&["run", "-c", &path]);

    for output in [&checked, &run] {
        assert_eq!(output.status.code(), Some(2), "the exit code of a bad file is wrong");
        assert_eq!(stdout(output), "");
    }
    assert_eq!(stderr(&checked), stderr(&run), "check and run disagree");
    for part in ["error[unknown-key]", "error[unknown-service]", ":3:1", "did you mean `listen`?", "2 problems"] {
        assert!(stderr(&checked).contains(part), "{part:?} is not said:\n{}", stderr(&checked));
    }
    assert!(!stderr(&checked).contains('\u{1b}'), "a pipe gets colours");
}

#[test]
fn check_prints_json_for_programs() {
    let scratch = Scratch::new("json");

    let bad = dislocate(&["check", "--json", "-c", &scratch.file(BAD)]);
    let good = dislocate(&["check", "--json", "-c", "deploy/dislocate.toml"]);

    let problems: serde_json::Value = serde_json::from_slice(&bad.stdout).expect("the output is JSON");
    let found: Vec<_> = problems.as_array().expect("it is a list").iter().map(|p| (&p["code"], &p["line"])).collect();
    assert_eq!(found, [(&"unknown-key".into(), &3.into()), (&"unknown-service".into(), &4.into())]);
    assert_eq!((bad.status.code(), stderr(&bad)), (Some(2), ""));
    assert_eq!((good.status.code(), stdout(&good)), (Some(0), "[]\n"));
}

#[test]
fn a_file_that_is_not_there_is_wrong_usage() {
    let output = dislocate(&["check", "-c", "/nonexistent.toml"]);
    assert_eq!(output.status.code(), Some(2));
    for part in ["cannot read /nonexistent.toml", "No such file", "-c FILE"] {
        assert!(stderr(&output).contains(part), "{part:?} is not said:\n{}", stderr(&output));
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [&["chekc"][..], &["check", "--nope"], &["completions", "cmd"], &[]] {
        assert_eq!(dislocate(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn what_is_printed_for_other_programs_is_what_they_read() {
    let schema: serde_json::Value = serde_json::from_slice(&dislocate(&["config", "schema"]).stdout).unwrap();
    assert_eq!(schema["type"], "object");
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&dislocate(&["completions", shell])).contains("dislocate"), "{shell} gets no completions");
    }
    let manual = dislocate(&["man"]);
    for part in [".TH dislocate 1", "check", "completions"] {
        assert!(stdout(&manual).contains(part), "{part:?} is not in the manual page");
    }
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_dislocate")).args(["config", "schema"]).stdout(writer).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
