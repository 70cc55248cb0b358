//! The demonstration tells its story and judges itself.

use crate::harness::{TempDir, run_to_exit};

#[test]
fn the_scripted_demo_comes_to_a_good_verdict() {
    let folder = TempDir::new();
    let path = folder.join("demo");

    let exited = run_to_exit(&["demo", "--script", "--write-config", path.to_str().unwrap()]);

    assert_eq!(exited.code, Some(0), "the demo passes its own verdict: {}\n{}", exited.stdout, exited.stderr);
    assert_eq!(exited.stderr, "", "nothing but the story is told");
    assert!(!exited.stdout.contains('\x1b'), "a script gets no terminal codes: {}", exited.stdout);
    let table = exited.stdout.lines().skip_while(|line| !line.starts_with("check ")).collect::<Vec<_>>();
    assert!(table.first().is_some_and(|head| head.ends_with("verdict")), "the story ends with a table: {table:?}");
    let rows = table[2..].iter().take_while(|line| !line.is_empty()).collect::<Vec<_>>();
    for check in ["requests that failed", "home-1 is left alone", "home-1 has work again", "open descriptors"] {
        let row = rows.iter().find(|row| row.contains(check)).unwrap_or_else(|| panic!("no row about {check}"));
        assert!(row.ends_with("  pass"), "{row}");
    }
    assert_eq!(table.last(), Some(&&*format!("all {} checks pass", rows.len())));
    assert!(path.join("dislocate.toml").exists(), "the configuration that ran is left behind");
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
        assert!(exited.stdout.contains(file.to_str().unwrap()), "it says what it wrote: {}", exited.stdout);
        let checked = run_to_exit(&["check", "-c", file.to_str().unwrap()]);
        assert_eq!(checked.code, Some(0), "{} is valid: {}", file.display(), checked.stderr);
    }
}

#[test]
fn the_demo_says_where_it_could_not_write() {
    let folder = TempDir::new();
    let file = folder.join("file");
    std::fs::write(&file, "").unwrap();
    let exited = run_to_exit(&["demo", "--write-config", file.to_str().unwrap()]);
    assert_eq!(exited.code, Some(1), "{}", exited.stdout);
    assert!(exited.stderr.contains(&format!("cannot create the directory {}", file.display())), "{}", exited.stderr);
}
