//! What `deploy/` offers works: each file is read by the program that it is for.

// A test's failure is a panic, and what a helper unwraps is the machine under the test, not the program.
#![allow(clippy::unwrap_used)]

// Shared with the end-to-end tests, which need more of it.
#[allow(dead_code)]
#[path = "e2e/harness/tools.rs"]
mod tools;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use self::tools::{needs_tools, path_of};

const BINARY: &str = env!("CARGO_BIN_EXE_dislocate");

#[test]
fn the_example_configuration_passes_the_check() {
    let output = run(Command::new(BINARY).args(["check", "-c"]).arg(deploy("dislocate.toml")));
    assert!(output.status.success(), "the example is refused: {output:?}");
    assert!(output.stderr.is_empty(), "the example has warnings: {output:?}");
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    if !needs_tools(&["systemd-analyze"]) {
        return;
    }
    // given: the unit with the binary where it is here
    let unit = read("dislocate.service").replace("/usr/local/bin/dislocate", BINARY);
    let folder = std::env::temp_dir().join(format!("dislocate-deploy-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("dislocate.service");
    fs::write(&path, unit).unwrap();

    // when
    let output = run(Command::new(tool("systemd-analyze")).args(["verify", "--man=no"]).arg(&path));

    // then
    fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "the unit is refused: {output:?}");
}

#[test]
fn the_unit_waits_longer_than_a_drain_takes() {
    let unit = read("dislocate.service");
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let stop: u64 = stop.strip_suffix('s').unwrap().parse().unwrap();
    let default = run(Command::new(BINARY).args(["config", "default"]));
    let default = String::from_utf8(default.stdout).unwrap();
    let drain = default.lines().find_map(|line| line.strip_prefix("drain_timeout = \"")).unwrap();
    let drain: u64 = drain.split('s').next().unwrap().parse().unwrap();
    assert!(stop > drain, "systemd kills after {stop} s what may drain for {drain} s");
}

#[test]
fn the_scrape_configuration_and_the_alerts_are_ones_that_prometheus_takes() {
    if !needs_tools(&["promtool"]) {
        return;
    }
    for (kind, file) in [("config", "prometheus.yml"), ("rules", "alerts.yml")] {
        let output = run(Command::new(tool("promtool")).args(["check", kind]).arg(deploy(file)));
        assert!(output.status.success(), "{file} is refused: {output:?}");
    }
}

#[test]
fn the_alerts_ask_for_metrics_and_values_that_are_documented() {
    let documented = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let alerts = read("alerts.yml");
    let names: BTreeSet<&str> = words(&alerts).filter(|word| word.starts_with("dislocate_")).collect();
    assert!(names.len() >= 8, "the alerts look at metrics");
    for name in names {
        assert!(documented.contains(&format!("| `{name}` |")), "{name} is a metric");
    }
    let values = alerts.split("=~\"").skip(1).flat_map(|rest| rest.split('"').next().unwrap().split('|'));
    for value in values {
        assert!(documented.contains(&format!("| `{value}` |")), "{value} is a value of a label");
    }
}

#[test]
fn the_role_lets_slices_be_read_and_nothing_else() {
    let text = read("kubernetes-rbac.yml");
    let rules = text.split("rules:\n").nth(1).unwrap().split("---").next().unwrap();
    let rules: Vec<&str> = rules.lines().map(|line| line.trim_start_matches([' ', '-'])).collect();
    let expected = [
        "apiGroups: [\"discovery.k8s.io\"]",
        "resources: [\"endpointslices\"]",
        "verbs: [\"get\", \"list\", \"watch\"]",
    ];
    assert_eq!(rules, expected, "one rule, of what the source asks for");
}

#[test]
fn the_image_is_made_of_files_that_are_there() {
    let text = read("Dockerfile");
    let copies: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("COPY ")).collect();
    assert!(!copies.is_empty());
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let named = manifest.split('"').skip(1).step_by(2).filter(|text| text.contains('/') && root().join(text).exists());
    for path in named {
        let folder = path.split('/').next().unwrap();
        assert!(copies.contains(&format!("{folder} {folder}").as_str()), "{path}, which Cargo.toml names, is there");
    }
    for copy in copies.iter().filter(|copy| !copy.starts_with("--from")) {
        let mut sources: Vec<&str> = copy.split_whitespace().collect();
        sources.pop();
        for source in sources {
            assert!(root().join(source).exists(), "{source} is there");
        }
    }
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")).unwrap();
    let compiler = format!("rust:{}-", version.trim_end_matches('"'));
    assert!(text.contains(&compiler), "the image is built by the compiler that the workspace names");
    let (_, image) = text.rsplit_once("\nFROM ").unwrap();
    let user = image.lines().find_map(|line| line.strip_prefix("USER ")).expect("the image names a user");
    assert!(!user.starts_with("0") && !user.starts_with("root"), "the image does not run as root");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn deploy(file: &str) -> PathBuf {
    root().join("deploy").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(deploy(file)).unwrap()
}

fn tool(name: &str) -> impl AsRef<Path> + AsRef<std::ffi::OsStr> {
    PathBuf::from(path_of(name).expect("the test has asked for it"))
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}
