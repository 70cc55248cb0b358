//! The probe that runs a command.

use std::path::Path;

use balance::{Active, Address};

use crate::support::{Scratch, checked, exec, states, until, until_next_result, until_state};

fn somewhere() -> Address {
    "[::1]:5432".parse().expect("an address")
}

#[tokio::test]
async fn the_exit_status_decides() {
    let cases: [(&[&str], Active, &str); 4] = [
        (&["true"], Active::Up, "exit status 0"),
        (&["false"], Active::Down, "exit status 1"),
        (&["sh", "-c", "exit 7"], Active::Down, "exit status 7"),
        (&["sh", "-c", "kill -TERM $$"], Active::Down, "ended by signal: 15 (SIGTERM)"),
    ];
    for (command, state, text) in cases {
        let services = checked(exec(command), &[somewhere()]);
        assert_eq!(until_state(&services, state).await.text, text);
    }
}

#[tokio::test]
async fn the_command_finds_the_backend_in_its_environment() {
    let script =
        r#"test "$DISLOCATE_SERVICE $DISLOCATE_BACKEND $DISLOCATE_HOST $DISLOCATE_PORT $DISLOCATE_ZONE" = "$1""#;
    let cases = [
        ("[::1]:5432", "web [::1]:5432 ::1 5432 fra/a"),
        ("10.0.0.1:80", "web 10.0.0.1:80 10.0.0.1 80 fra/a"),
        ("unix:/run/x.sock", "web unix:/run/x.sock /run/x.sock  fra/a"),
    ];
    for (address, expected) in cases {
        let services = checked(exec(&["sh", "-c", script, "sh", expected]), &[address.parse().unwrap()]);
        until(|| states(&services) != [Active::Unknown]).await;
        assert_eq!(states(&services), [Active::Up], "the environment for {address} is not {expected}");
    }
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_children_and_reaped() {
    let scratch = Scratch::new("hang");
    let script = r#"sleep 1000 & echo $$ $! > "$1/new"; mv "$1/new" "$1/pids"; wait"#;
    let directory = scratch.0.to_str().unwrap();
    let services = checked(exec(&["sh", "-c", script, "sh", directory]), &[somewhere()]);
    until(|| scratch.0.join("pids").exists()).await;
    let pids = std::fs::read_to_string(scratch.0.join("pids")).unwrap();
    let pids: Vec<&str> = pids.split_whitespace().collect();
    assert_eq!(until_state(&services, Active::Down).await.text, "exec: timed out");
    until(|| !Path::new("/proc").join(pids[0]).exists()).await;
    until(|| !is_running(pids[1])).await;
}

/// Whether a process runs; one that has ended and waits for init to notice does not.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_command_that_cannot_be_run_is_nobodys_failure() {
    for command in [&["/nonexistent/check"][..], &["/"], &[]] {
        let services = checked(exec(command), &[somewhere()]);
        for _ in 0..4 {
            let result = until_next_result(&services).await;
            assert!(result.text.starts_with("the command cannot be run"), "{}", result.text);
        }
        assert_eq!(states(&services), [Active::Unknown]);
    }
}
