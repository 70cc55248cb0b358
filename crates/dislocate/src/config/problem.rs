//! What can be wrong with a file, one value for each mistake, and the list in which the passes collect them.

use super::limits::MAX_PROBLEMS;
use super::raw::Span;

/// Declares the codes once, with the name that people and scripts see.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)*) => {
        /// The kind of a mistake. Names never change their meaning; `docs/configuration.md` lists them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in every output.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

codes! {
    /// The file cannot be read at all.
    Unreadable = "unreadable",
    /// The file is larger than any that is taken.
    TooLarge = "too-large",
    /// The text is not TOML.
    Syntax = "syntax",
    /// A key that means nothing here.
    UnknownKey = "unknown-key",
    /// A key that must be there is not.
    MissingKey = "missing-key",
    /// A number where a text belongs, and the like.
    WrongType = "wrong-type",
    /// A text that is none of the words that are taken here.
    UnknownValue = "unknown-value",
    /// A number, duration or length outside its bounds.
    OutOfRange = "out-of-range",
    /// Something that dislocate will have but does not have yet.
    NotBuilt = "not-built",
    /// A text that is not a duration with a unit.
    InvalidDuration = "invalid-duration",
    /// A text that is not an address or a network.
    InvalidAddress = "invalid-address",
    /// A text that cannot be a name or zone.
    InvalidName = "invalid-name",
    /// A text that is not a path, status, host, command, rate, server ID, URL, domain name or bytes, or a key that
    /// cannot be read.
    InvalidValue = "invalid-value",
    /// Two keys that contradict each other.
    Contradiction = "contradiction",
    /// Two listeners, two services, or two backends or sources of a service with one name, address, label or server ID,
    /// or two configurations with one ID.
    Duplicate = "duplicate",
    /// Two listeners that would take the same connections.
    AddressConflict = "address-conflict",
    /// A listener's service that is nowhere defined.
    UnknownService = "unknown-service",
    /// A backend that is a listener of this very process.
    ProxyLoop = "proxy-loop",
    /// A service that no listener uses. A warning.
    UnusedService = "unused-service",
    /// A service all of whose backends have weight 0. A warning.
    NoWeight = "no-weight",
}

impl Code {
    /// Whether a configuration with this is refused, or only remarked on.
    pub fn severity(self) -> Severity {
        match self {
            Self::UnusedService | Self::NoWeight => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

/// Whether a configuration can be used in spite of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but it is probably not what was meant.
    Warning,
}

impl Severity {
    /// The word in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Its kind.
    pub code: Code,
    /// Where it is, in bytes of the text; nothing when it is about the file as a whole.
    pub span: Option<Span>,
    /// What is wrong, on what.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Another place that has to do with it, and how.
    pub related: Option<(Span, String)>,
}

impl Problem {
    /// A problem without help or a second place.
    pub fn new(code: Code, span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self { code, span: span.into(), message: message.into(), help: None, related: None }
    }

    /// The same with what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with a second place.
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }
}

/// The problems found so far: at most [`MAX_PROBLEMS`] of them, the rest counted.
#[derive(Debug, Default)]
pub struct Problems {
    pub(super) list: Vec<Problem>,
    pub(super) omitted: usize,
    pub(super) failed: bool,
}

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.failed |= problem.code.severity() == Severity::Error;
        match self.are_many() {
            false => self.list.push(problem),
            true => self.omitted += 1,
        }
    }

    /// Whether further ones are only counted, so that there is no use in looking for advice.
    pub fn are_many(&self) -> bool {
        self.list.len() >= MAX_PROBLEMS
    }

    /// The value, or nothing and its problem added.
    pub fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.push(problem)).ok()
    }
}

/// A text from the file as messages quote it: on one line, without control characters, and not too long.
pub fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(QUOTED_CHARS).flat_map(char::escape_debug).collect();
    let rest = if text.chars().nth(QUOTED_CHARS).is_some() { "…" } else { "" };
    format!("`{shown}{rest}`")
}

/// Longer than any sensible key or address.
const QUOTED_CHARS: usize = 80;
