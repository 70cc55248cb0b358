//! The demonstration tells its story and judges itself.

use crate::harness::{TempDir, run_to_exit};

#[test]
fn the_scripted_demo_comes_to_a_good_verdict() {
    let exited = run_to_exit(&["demo", "--script"]);
    assert_eq!(exited.code, Some(0), "the demo passes its own verdict: {}\n{}", exited.stdout, exited.stderr);
}

#[test]
fn the_demo_leaves_a_configuration_that_is_valid() {
    let folder = TempDir::new();
    let path = folder.join("demo");
    let exited = run_to_exit(&["demo", "--write-config", path.to_str().unwrap()]);
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    let files = std::fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path());
    let configurations = files.filter(|file| file.extension().is_some_and(|end| end == "toml")).collect::<Vec<_>>();
    assert!(!configurations.is_empty(), "a configuration is left behind");
    for file in configurations {
        let checked = run_to_exit(&["check", "-c", file.to_str().unwrap()]);
        assert_eq!(checked.code, Some(0), "{} is valid: {}", file.display(), checked.stderr);
    }
}
