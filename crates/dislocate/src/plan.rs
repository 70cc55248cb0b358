//! What a new configuration changes, said before it is done.

use std::fmt;

use crate::config::{Config, Listener, Service};

/// The difference between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the new configuration, what goes away last.
    pub steps: Vec<Step>,
    /// Keys that only a restart can change.
    pub needs_restart: Vec<&'static str>,
}

/// What happens to one listener or service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `listener` or `service`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What happens.
    pub change: Change,
}

/// What happens to something that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Start,
    /// It is gone.
    Stop,
    /// It is different.
    Change,
    /// It stays as it is.
    Unchanged,
}

impl Plan {
    /// What leads from `old` to `new`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut steps = Vec::new();
        diff("listener", &old.listeners, &new.listeners, |listener: &Listener| &listener.name, &mut steps);
        diff("service", &old.services, &new.services, |service: &Service| &service.name, &mut steps);
        let fixed = [
            ("node.workers", old.node.workers == new.node.workers),
            ("node.zone", old.node.zone == new.node.zone),
            ("node.state_dir", old.node.state_dir == new.node.state_dir),
            ("node.log", old.node.log == new.node.log),
            ("admin.listen", old.admin == new.admin),
        ];
        let needs_restart = fixed.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect();
        Self { steps, needs_restart }
    }
}

/// One line: `2 unchanged, change service "web", start listener "new"`.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unchanged = self.steps.iter().filter(|step| step.change == Change::Unchanged).count();
        write!(f, "{unchanged} unchanged")?;
        for Step { kind, name, change } in self.steps.iter().filter(|step| step.change != Change::Unchanged) {
            write!(f, ", {} {kind} {name:?}", change.verb())?;
        }
        Ok(())
    }
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Change => "change",
            Self::Unchanged => "keep",
        }
    }
}

fn diff<T: PartialEq>(kind: &'static str, old: &[T], new: &[T], name: impl Fn(&T) -> &String, steps: &mut Vec<Step>) {
    let step = |item: &T, change| Step { kind, name: name(item).clone(), change };
    for item in new {
        steps.push(match old.iter().find(|before| name(before) == name(item)) {
            None => step(item, Change::Start),
            Some(before) if before == item => step(item, Change::Unchanged),
            Some(_) => step(item, Change::Change),
        });
    }
    let gone = old.iter().filter(|before| !new.iter().any(|item| name(item) == name(before)));
    steps.extend(gone.map(|before| step(before, Change::Stop)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        crate::config::parse("test.toml", text).unwrap_or_else(|report| panic!("{}", report.render(false)))
    }

    const OLD: &str = r#"
        listener = [{ name = "a", listen = "127.0.0.1:4001", service = "s" },
                    { name = "b", listen = "127.0.0.1:4002", service = "s" }]
        service = [{ name = "s", backends = ["127.0.0.1:80"] }]
    "#;

    #[test]
    fn a_plan_names_what_starts_changes_and_stops() {
        let new = OLD.replace("name = \"b\", listen = \"127.0.0.1:4002\"", "name = \"c\", listen = \"127.0.0.1:4003\"");
        let new = new.replace("127.0.0.1:80", "127.0.0.1:81");
        let plan = Plan::between(&config(OLD), &config(&new));
        let printed = r#"1 unchanged, start listener "c", stop listener "b", change service "s""#;
        assert_eq!(plan.to_string(), printed);
        assert!(plan.needs_restart.is_empty());
    }

    #[test]
    fn what_only_datagrams_need_is_a_change_too() {
        let old = OLD.replace("service = \"s\" }", "service = \"s\", protocol = \"udp\" }");
        let listener = old.replacen("protocol = \"udp\"", "protocol = \"udp\", requests = 1", 1);
        let protocol = old.replacen("protocol = \"udp\"", "protocol = \"tcp\"", 1);
        let service = old.replace("backends", "drain = \"move_now\", backends");
        let cases = [
            (listener, r#"2 unchanged, change listener "a""#),
            // The check of the service comes with the first listener of connections.
            (protocol, r#"1 unchanged, change listener "a", change service "s""#),
            (service, r#"2 unchanged, change service "s""#),
        ];
        for (new, printed) in cases {
            assert_eq!(Plan::between(&config(&old), &config(&new)).to_string(), printed);
        }
    }

    #[test]
    fn what_only_a_restart_can_change_is_named() {
        let new = format!("node = {{ workers = 7, zone = \"x\", state_dir = \"/x\", log = \"none\" }}\n{OLD}");
        let plan = Plan::between(&config(OLD), &config(&new));
        assert_eq!(plan.needs_restart, ["node.workers", "node.zone", "node.state_dir", "node.log"]);
    }
}
