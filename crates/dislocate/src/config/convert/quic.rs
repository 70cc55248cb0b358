//! How connection IDs of QUIC lead to backends.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use proxy::{ConnectionIds, InvalidQuicLb, QuicLb};

use super::super::limits::{SERVER_ID_AND_NONCE, SERVER_ID_LENGTH};
use super::super::problem::{Code, Problem, Problems, quoted};
use super::super::raw::{self, At, Field, Span};
use super::octets::hex;

/// The connection IDs of a service; nothing when they are left out. `keys` gets what encrypts them.
///
/// *Cost*: reads the files with keys.
pub fn connection_ids(
    field: Field<raw::ConnectionIds>,
    keys: &mut Vec<[u8; 16]>,
    problems: &mut Problems,
) -> Option<ConnectionIds> {
    match field.0?.value {
        raw::ConnectionIds::Learned => Some(ConnectionIds::Learned),
        raw::ConnectionIds::Encoded(all) => {
            let mut read: Vec<(QuicLb, Span)> = Vec::new();
            for At { span, value } in all {
                let config_id = value.config_id.span().unwrap_or_else(|| span.clone());
                let Some(lb) = quic_lb(value, keys, problems) else { continue };
                if let Some((_, first)) = read.iter().find(|(other, _)| other.config_id() == lb.config_id()) {
                    let message = format!("config_id {} is there twice", lb.config_id());
                    let problem = Problem::new(Code::Duplicate, config_id, message).help("give each its own");
                    problems.push(problem.related(first.clone(), "first here"));
                    continue;
                }
                read.push((lb, config_id));
            }
            Some(ConnectionIds::Encoded(read.into_iter().map(|(lb, _)| lb).collect()))
        }
    }
}

/// One configuration; nothing when it cannot be one, which was reported.
fn quic_lb(raw: raw::QuicLb, keys: &mut Vec<[u8; 16]>, problems: &mut Problems) -> Option<QuicLb> {
    let key = raw.key_file.0.and_then(|at| problems.keep(key(&at)));
    keys.extend(key);
    let (config_id, server_id) = (*raw.config_id.value()?, *raw.server_id_length.value()?);
    let At { span, value: nonce } = raw.nonce_length.0?;
    let read = QuicLb::new(config_id, server_id, nonce, key).map_err(|error| {
        let help = match error {
            InvalidQuicLb::TooLong => format!("together they have at most {SERVER_ID_AND_NONCE} bytes"),
            InvalidQuicLb::ConfigId | InvalidQuicLb::ServerIdLength | InvalidQuicLb::NonceLength => error.to_string(),
        };
        let message = format!("a server ID of {server_id} bytes and a nonce of {nonce} do not fit a connection ID");
        Problem::new(Code::Contradiction, span, message).help(help)
    });
    problems.keep(read)
}

/// A key from its file. What the file holds is not repeated.
fn key(at: &At<String>) -> Result<[u8; 16], Problem> {
    let path = Path::new(&at.value);
    if !path.is_absolute() || at.value.contains('\0') {
        let message = format!("{} is not the path of a key file", quoted(&at.value));
        return Err(Problem::new(Code::InvalidValue, at.span.clone(), message).help("write its absolute path"));
    }
    let invalid = |why: String| {
        let message = format!("no key can be read from {}: {why}", quoted(&at.value));
        let help = "it holds the key of the servers as 32 hexadecimal digits, and must be readable to dislocate";
        Problem::new(Code::InvalidValue, at.span.clone(), message).help(help)
    };
    let text = read(path).map_err(|error| invalid(error.to_string()))?;
    let bytes = std::str::from_utf8(&text).ok().and_then(|text| hex(text.trim_ascii()));
    let key = bytes.and_then(|bytes| bytes.try_into().ok());
    key.ok_or_else(|| invalid("it does not hold 32 hexadecimal digits".into()))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    // A pipe would be waited for.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(KEY_FILE_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// The server IDs of a service's backends.
pub struct ServerIds<'a> {
    connection_ids: Option<&'a ConnectionIds>,
    taken: HashMap<Box<[u8]>, Span>,
}

impl<'a> ServerIds<'a> {
    /// None yet, for a service with these connection IDs.
    pub fn new(connection_ids: Option<&'a ConnectionIds>) -> Self {
        Self { connection_ids, taken: HashMap::new() }
    }

    /// One more, or what is wrong with it.
    pub fn take(&mut self, at: &At<String>) -> Result<Box<[u8]>, Problem> {
        let At { span, value } = at;
        let Some(ConnectionIds::Encoded(all)) = self.connection_ids else {
            let message = "`server_id` has no meaning without a list in `connection_ids`";
            let help =
                "write the QUIC-LB configuration of the servers into the service's `connection_ids`, or remove it";
            return Err(Problem::new(Code::Contradiction, span.clone(), message).help(help));
        };
        let id =
            hex(value).filter(|id| (1..=usize::from(SERVER_ID_LENGTH.1)).contains(&id.len())).ok_or_else(|| {
                let message = format!("{} is not a server ID", quoted(value));
                Problem::new(Code::InvalidValue, span.clone(), message)
                    .help("write two hexadecimal digits for each byte")
            })?;
        // In an empty list there were mistakes only, which were reported.
        if !all.is_empty() && all.iter().all(|lb| usize::from(lb.server_id_length()) != id.len()) {
            let message =
                format!("this server ID has {} bytes, which is no `server_id_length` of the service", id.len());
            let lengths: Vec<_> = all.iter().map(|lb| lb.server_id_length().to_string()).collect();
            let help = format!("the service has: {}", lengths.join(", "));
            return Err(Problem::new(Code::Contradiction, span.clone(), message).help(help));
        }
        let id = id.into_boxed_slice();
        if let Some(first) = self.taken.get(&id) {
            let message = format!("server ID {} is in this service twice", quoted(value));
            let problem = Problem::new(Code::Duplicate, span.clone(), message).help("give each backend its own");
            return Err(problem.related(first.clone(), "first here"));
        }
        self.taken.insert(id.clone(), span.clone());
        Ok(id)
    }
}

/// A key, with all the space that anybody leaves around it.
const KEY_FILE_BYTES: u64 = 256;
