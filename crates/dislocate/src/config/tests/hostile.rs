//! Nothing in a file makes the program panic, and nothing makes it slow.

use proptest::prelude::*;

use super::super::{DEFAULT, load, parse};
use super::{BACKENDS, LISTEN, codes, with};

/// Goes every way that a text can take.
fn survive(text: &str) {
    let report = match parse("test.toml", text) {
        Ok(config) => config.warnings,
        Err(report) => {
            assert!(!report.problems().is_empty(), "a text is refused without a reason");
            report
        }
    };
    report.render(true);
    report.json();
}

/// A file of this content, gone with the directory when dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str, content: &[u8]) -> Self {
        let dir = std::env::temp_dir().join(format!("dislocate-config-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("x.toml"), content).unwrap();
        Self(dir)
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.join("x.toml")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in the temporary directory hurts nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_that_ends_anywhere_is_survived() {
    for (end, _) in DEFAULT.char_indices() {
        survive(&DEFAULT[..end]);
    }
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("[{}]", vec!["a"; 100_000].join(".")),
    ] {
        survive(&text);
        assert!(parse("test.toml", &text).is_err(), "nesting without end is taken");
    }
}

#[test]
fn a_large_file_is_read_and_a_larger_one_refused() {
    let comment = "# nothing to see here\n".repeat((3 << 20) / 22);
    let good = Scratch::new("large", (comment.clone() + &with(LISTEN, BACKENDS)).as_bytes());
    load(&good.file()).unwrap_or_else(|report| panic!("three megabytes are refused:\n{report}"));

    let larger = Scratch::new("larger", comment.repeat(4).as_bytes());
    assert_eq!(codes(&load(&larger.file()).unwrap_err()), ["too-large"]);
    assert_eq!(codes(&load("/dev/zero".as_ref()).unwrap_err()), ["too-large"]);
}

#[test]
fn many_mistakes_in_a_large_file_are_survived() {
    survive(&"x = 1\n".repeat(100_000));
    survive(&"[[listener]]\nfoo = 1\n".repeat(20_000));
    let backends: String = (0..100_000).map(|n| format!("\"h{n}:80\", ")).collect();
    survive(&with(LISTEN, &format!("backends = [{backends}]")));
}

#[test]
fn a_file_that_is_not_text_is_refused() {
    let file = Scratch::new("binary", b"name = \"\xff\xfe\"");
    let report = load(&file.file()).unwrap_err();
    assert_eq!(codes(&report), ["syntax"]);
    assert!(report.to_string().contains("UTF-8"), "what is wrong is not said:\n{report}");
}

#[test]
fn a_directory_is_no_file() {
    let scratch = Scratch::new("directory", b"");
    assert_eq!(codes(&load(&scratch.0).unwrap_err()), ["unreadable"]);
}

proptest! {
    #[test]
    fn any_text_is_survived(text in any::<String>()) {
        survive(&text);
    }

    #[test]
    fn any_toml_like_text_is_survived(text in "[\\[\\]{}a-c=\"'.,0-9\\-:\\n #_\\\\é\\t\\r]{0,80}") {
        survive(&text);
    }

    #[test]
    fn a_good_file_with_anything_put_anywhere_is_survived(at in 0..DEFAULT.len(), length in 0usize..40, put in ".{0,20}") {
        let start = DEFAULT.floor_char_boundary(at);
        let end = DEFAULT.floor_char_boundary((at + length).min(DEFAULT.len())).max(start);
        survive(&format!("{}{put}{}", &DEFAULT[..start], &DEFAULT[end..]));
    }

    #[test]
    fn any_value_of_any_key_is_survived(
        key in "(listen|protocol|service|idle_timeout|retries|splice|name|requests|accept_proxy|unproven_reply_bytes)",
        value in "(\".{0,30}\"|\"[0-9a-f:.]{0,20}/[0-9s]{0,3}\"|[0-9xob_.eTZ:+-]{1,24}|\\[(\"[0-9:.\\[\\]-]{0,20}\",){0,3}\\])",
    ) {
        survive(&with(&format!("{key} = {value}"), BACKENDS));
        survive(&with(LISTEN, &format!("backends = [{value}]")));
        survive(&with(LISTEN, &format!("{BACKENDS}\nhealth = {{ kind = \"http\", expect = {value} }}")));
        let udp = format!("{LISTEN}\nprotocol = \"udp\"");
        survive(&with(&format!("{udp}\n{key} = {value}"), BACKENDS));
        survive(&with(&udp, &format!("{BACKENDS}\nhealth = {{ kind = \"udp\", send = {value}, expect = {{ hex = {value} }} }}")));
        let ids = format!("connection_ids = [{{ config_id = {value}, server_id_length = 1, nonce_length = 4 }}]");
        survive(&with(&udp, &format!("{ids}\nbackends = [{{ address = \"10.0.0.1:80\", server_id = {value} }}]")));
    }
}
