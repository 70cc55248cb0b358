//! The command line: one command, `--option value` pairs, and what follows `--`.
//!
//! Written by hand because the only caller is the driver next door; a parser crate would be half of this program.

use std::collections::HashMap;
use std::io;
use std::str::FromStr;
use std::time::Duration;

/// The options of one command, not yet converted.
pub struct Args {
    options: HashMap<String, String>,
    /// What follows `--`: a command line for `startup`.
    pub rest: Vec<String>,
}

impl Args {
    /// Splits the command's name from its options.
    pub fn parse(mut words: impl Iterator<Item = String>) -> io::Result<(String, Self)> {
        let command = words.next().ok_or_else(|| wrong("no command"))?;
        let mut options = HashMap::new();
        while let Some(word) = words.next() {
            if word == "--" {
                break;
            }
            let name = word.strip_prefix("--").ok_or_else(|| wrong(format!("unexpected `{word}`")))?;
            let value = words.next().ok_or_else(|| wrong(format!("--{name} needs a value")))?;
            options.insert(name.to_owned(), value);
        }
        Ok((command, Self { options, rest: words.collect() }))
    }

    /// A value that has to be there.
    pub fn need<T: FromStr>(&self, name: &str) -> io::Result<T> {
        self.optional(name)?.ok_or_else(|| wrong(format!("--{name} is needed")))
    }

    /// A value that may be left out.
    pub fn optional<T: FromStr>(&self, name: &str) -> io::Result<Option<T>> {
        self.options.get(name).map(|text| convert(name, text)).transpose()
    }

    /// A list separated by commas, at least one entry long.
    pub fn list<T: FromStr>(&self, name: &str) -> io::Result<Vec<T>> {
        self.need::<String>(name)?.split(',').map(|text| convert(name, text)).collect()
    }

    /// A duration given in seconds, fractions allowed.
    pub fn seconds(&self, name: &str) -> io::Result<Duration> {
        Duration::try_from_secs_f64(self.need(name)?).map_err(|_| wrong(format!("--{name} is not a duration")))
    }
}

/// A mistake on the command line.
pub fn wrong(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.into())
}

fn convert<T: FromStr>(name: &str, text: &str) -> io::Result<T> {
    text.parse().map_err(|_| wrong(format!("--{name} cannot be `{text}`")))
}
