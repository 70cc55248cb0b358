//! Endpoints from files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use discovery::sources::{FileSettings, FileSource};

use crate::support::{Run, Scratch};

/// A source that the watch alone wakes.
fn watched(path: &Path) -> Run {
    Run::of(FileSource::new(FileSettings { poll: Duration::from_secs(3_600), ..FileSettings::new(path) }))
}

fn json(addresses: &[&str]) -> String {
    let endpoints: Vec<_> = addresses.iter().map(|address| format!("{{\"address\": \"{address}\"}}")).collect();
    format!("{{\"endpoints\": [{}]}}", endpoints.join(", "))
}

/// Puts a file in place as programs should.
fn put(path: &Path, text: &str) {
    let beside = path.with_extension("tmp");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// Puts a link in place of a file.
fn link(path: &Path, to: &Path) {
    let beside = path.with_extension("link");
    symlink(to, &beside).unwrap();
    fs::rename(&beside, path).unwrap();
}

#[tokio::test]
async fn a_file_is_read_at_once_and_when_it_changes() {
    let folder = Scratch::new("file");
    let path = folder.join("web.json");
    put(&path, &json(&["10.0.0.2:80", "10.0.0.1:80"]));
    let mut run = watched(&path);
    assert_eq!(run.ids().await, ["10.0.0.1:80", "10.0.0.2:80"]);

    put(&path, &json(&["10.0.0.3:80"]));
    assert_eq!(run.ids().await, ["10.0.0.3:80"], "put in place by a rename");

    // As long as before, so that it is never there in part.
    let mut in_place = fs::OpenOptions::new().write(true).open(&path).unwrap();
    in_place.write_all(json(&["10.0.0.4:80"]).as_bytes()).unwrap();
    assert_eq!(run.ids().await, ["10.0.0.4:80"], "written in place");

    put(&path, &json(&[]));
    assert_eq!(run.list().await, [], "an empty list is a list");
}

#[tokio::test]
async fn the_same_list_in_other_words_is_no_news() {
    let folder = Scratch::new("same");
    let path = folder.join("web.toml");
    put(&path, "[[endpoints]]\naddress = \"10.0.0.1:80\"\n");
    let mut run = watched(&path);
    assert_eq!(run.ids().await, ["10.0.0.1:80"]);
    put(&path, "# as before\nendpoints = [{ weight = 1, address = \"10.0.0.1:80\" }]\n");
    run.alive().await;
}

#[tokio::test]
async fn a_poll_finds_what_no_watch_can_see() {
    let (folder, away) = (Scratch::new("poll"), Scratch::new("poll-away"));
    let path = folder.join("web.json");
    put(&away.join("real.json"), &json(&["10.0.0.1:80"]));
    symlink(away.join("real.json"), &path).unwrap();
    let mut run = Run::of(FileSource::new(FileSettings { poll: Duration::from_millis(5), ..FileSettings::new(&path) }));
    assert_eq!(run.ids().await, ["10.0.0.1:80"]);
    put(&away.join("real.json"), &json(&["10.0.0.2:80"]));
    assert_eq!(run.ids().await, ["10.0.0.2:80"]);
}

#[tokio::test]
async fn a_config_map_is_followed_through_its_links() {
    let folder = Scratch::new("config-map");
    let version = |name: &str, address: &str| {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("web.json"), json(&[address])).unwrap();
    };
    version("..2026_1", "10.0.0.1:80");
    symlink("..2026_1", folder.join("..data")).unwrap();
    symlink("..data/web.json", folder.join("web.json")).unwrap();
    let mut file = watched(&folder.join("web.json"));
    let mut whole = watched(&folder.0);
    assert_eq!(file.ids().await, ["10.0.0.1:80"]);
    assert_eq!(whole.ids().await, ["10.0.0.1:80"]);

    version("..2026_2", "10.0.0.2:80");
    symlink("..2026_2", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    assert_eq!(file.ids().await, ["10.0.0.2:80"]);
    assert_eq!(whole.ids().await, ["10.0.0.2:80"]);
    fs::remove_dir_all(folder.join("..2026_1")).unwrap();
    file.alive().await;
}

#[tokio::test]
async fn a_folder_is_one_list_of_all_its_files() {
    let folder = Scratch::new("folder");
    put(&folder.join("b.json"), &json(&["10.0.0.2:80", "10.0.0.1:80"]));
    fs::write(folder.join("a.toml"), "[[endpoints]]\naddress = \"10.0.0.1:80\"\n").unwrap();
    for passed_over in [".hidden.json", "README", "old.json~"] {
        fs::write(folder.join(passed_over), "no list").unwrap();
    }
    let mut run = watched(&folder.0);
    assert_eq!(run.ids().await, ["10.0.0.1:80", "10.0.0.2:80"], "what two files say is there once");
    put(&folder.join("c.json"), &json(&["10.0.0.3:80"]));
    assert_eq!(run.ids().await, ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    fs::remove_file(folder.join("b.json")).unwrap();
    assert_eq!(run.ids().await, ["10.0.0.1:80", "10.0.0.3:80"]);
    put(&folder.join("c.json"), r#"{"endpoints": [{"address": "10.0.0.1:80", "weight": 2}]}"#);
    assert!(run.error().await.contains("10.0.0.1:80 is there twice"));
}

#[tokio::test]
async fn what_is_no_list_is_an_error_and_changes_nothing() {
    let (folder, empty) = (Scratch::new("bad"), Scratch::new("bad-empty"));
    let path = folder.join("web.json");
    let bad: [(&dyn Fn(), &str); 7] = [
        (&|| fs::remove_file(&path).unwrap(), "web.json: No such file"),
        (&|| put(&path, ""), "web.json: empty"),
        (&|| put(&path, &json(&["10.0.0.1:80", "10.0.0.2:80"])[..40]), "web.json: not as expected: EOF"),
        (&|| put(&path, r#"{"endpoints": [{"address": "10.0.0.1:80", "wieght": 3}]}"#), "unknown field `wieght`"),
        (&|| put(&path, &" ".repeat(17 << 20)), "web.json: more than 16 MiB in all"),
        (&|| link(&path, &empty.0), "no file that ends in"),
        (&|| link(&path, Path::new("/dev/zero")), "neither a file nor a folder"),
    ];
    for (spoil, expected) in bad {
        put(&path, &json(&["10.0.0.1:80", "10.0.0.2:80"]));
        let mut run = watched(&path);
        assert_eq!(run.ids().await, ["10.0.0.1:80", "10.0.0.2:80"]);
        spoil();
        let error = run.error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert!(watched(&folder.join("missing").join("web.json")).error().await.contains("No such file"));
}

#[tokio::test]
async fn nothing_but_a_list_in_a_plain_file_is_taken_for_one() {
    let folder = Scratch::new("hostile");
    let path = folder.join("web.json");
    let crowd = folder.join("crowd");
    fs::create_dir(&crowd).unwrap();
    (0..=10_000).for_each(|n| fs::write(crowd.join(n.to_string()), "").unwrap());
    let wrong = ["null", "1", "\"text\"", "[]", "{}", "{\"endpoints\": {}}", "{\"endpoints\": [1]}", "\u{feff}{}"];
    let deep = ["[", "{\"endpoints\":["].map(|open| open.repeat(100_000));
    let huge = format!("{{\"endpoints\": [{{\"address\": \"{}\"}}]}}", "1".repeat(1 << 20));
    let texts = wrong.iter().map(ToString::to_string).chain(deep).chain([huge]);
    let mut days: Vec<(String, Box<dyn Fn()>)> = Vec::new();
    for text in texts {
        let path = path.clone();
        days.push((text[..text.len().min(30)].to_owned(), Box::new(move || put(&path, &text))));
    }
    let path_of = |_: ()| path.clone();
    let (at, loops) = (path_of(()), folder.join("loop"));
    days.push((
        "links in a circle".into(),
        Box::new(move || {
            let _gone = fs::remove_file(&loops);
            symlink(&loops, &loops).unwrap();
            link(&at, &loops);
        }),
    ));
    let (at, pipe) = (path_of(()), folder.join("pipe"));
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    days.push(("a pipe that nobody writes to".into(), Box::new(move || link(&at, &pipe))));
    let at = path_of(());
    days.push(("a folder of ten thousand others".into(), Box::new(move || link(&at, &crowd))));

    for (n, (day, spoil)) in days.iter().enumerate() {
        // At the beginning of a run and in the middle of one.
        spoil();
        assert!(!watched(&path).error().await.is_empty(), "{day}");
        let good = [format!("10.0.{n}.1:80")];
        put(&path, &json(&[&good[0]]));
        let mut run = watched(&path);
        assert_eq!(run.ids().await, good, "{day}: what was before is not in the list");
        spoil();
        let error = run.error().await;
        assert!(!error.is_empty() && error.len() <= discovery::ERROR_MAX_BYTES, "{day}");
    }
}

#[tokio::test]
async fn a_file_that_flaps_is_told_as_it_was_last() {
    let folder = Scratch::new("flaps");
    let path = folder.join("web.json");
    put(&path, &json(&["10.0.0.1:80"]));
    let mut run = watched(&path);
    assert_eq!(run.ids().await, ["10.0.0.1:80"]);
    for n in 0..200 {
        put(&path, &json(if n % 2 == 0 { &[] } else { &["10.0.0.1:80", "10.0.0.2:80"] }));
    }
    put(&path, &json(&["10.0.0.9:80"]));
    while run.ids().await != ["10.0.0.9:80"] {}
}
