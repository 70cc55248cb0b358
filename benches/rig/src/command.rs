//! What backends are told while they run.

use std::str::FromStr;
use std::time::Duration;

/// A change of some backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// A name, or the beginning of names followed by `*`.
    pub names: String,
    /// What is to change.
    pub change: Change,
}

/// A change of one backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Work takes `1 / speed` of its time from here on.
    Speed(f64),
    /// As a cold start: from this speed to 1 in this time, counted from the next request on.
    Ramp(f64, Duration),
    /// Everything stands still for this long, what is being worked on included. Handshakes, which are the kernel's, go on.
    Stall(Duration),
    /// New connections are refused; accepted ones are served.
    Refuse,
    /// New connections are accepted and reset at once.
    Reset,
    /// Connections are accepted, requests read and never answered; what is being worked on is still answered.
    Silent,
    /// Refuses, resets and keeps silent no more. The speed stays.
    Heal,
}

impl Command {
    /// Whether the command is for the backend of this name.
    pub fn is_for(&self, name: &str) -> bool {
        match self.names.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.names,
        }
    }
}

impl FromStr for Command {
    type Err = String;

    /// `NAMES speed X`, `NAMES ramp X SECONDS`, `NAMES stall MILLISECONDS`, `NAMES refuse|reset|silent|heal`.
    fn from_str(line: &str) -> Result<Command, String> {
        let wrong = || format!("not a command: `{line}`");
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| *number > 0.0).ok_or_else(wrong);
        let change = match words[..] {
            [_, "speed", speed] => Change::Speed(number(speed)?),
            [_, "ramp", speed, seconds] => Change::Ramp(number(speed)?, Duration::from_secs_f64(number(seconds)?)),
            [_, "stall", millis] => Change::Stall(Duration::from_secs_f64(number(millis)? / 1000.0)),
            [_, "refuse"] => Change::Refuse,
            [_, "reset"] => Change::Reset,
            [_, "silent"] => Change::Silent,
            [_, "heal"] => Change::Heal,
            _ => return Err(wrong()),
        };
        Ok(Command { names: words[0].to_owned(), change })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        let command: Command = "home-* ramp 0.1 20".parse().unwrap();
        assert_eq!(command.change, Change::Ramp(0.1, Duration::from_secs(20)));
        assert!(command.is_for("home-3") && !command.is_for("near-3"), "a star stands for every ending");
        for wrong in ["", "a", "a speed", "a speed 0", "a speed x", "a refuse 1"] {
            assert!(wrong.parse::<Command>().is_err(), "`{wrong}` is refused");
        }
    }
}
