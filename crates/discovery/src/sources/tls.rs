//! TLS for the sources that speak HTTP.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::source::SourceError;

/// How a server of an `https` URL is known, and how it knows us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The authorities that may vouch for the server, in PEM. None are those of the system.
    pub ca_file: Option<PathBuf>,
    /// What we show to a server that asks who we are.
    pub identity: Option<TlsIdentity>,
    /// The name that the server must have; none is the host of the URL.
    pub server_name: Option<String>,
}

/// A certificate of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate and those that lead from it to an authority, in PEM.
    pub cert_file: PathBuf,
    /// Its key, in PEM.
    pub key_file: PathBuf,
}

/// What is needed to speak TLS with one server, as the files said when a run began.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads the files. They are read anew by each run, and a run ends when a certificate of ours is refused.
    pub(super) async fn load(settings: &TlsSettings, host: &str) -> Result<Self, SourceError> {
        Self::of(TlsParts::read(settings, host).await?).await
    }

    /// The same from what was read elsewhere.
    pub(super) async fn of(parts: TlsParts) -> Result<Self, SourceError> {
        let unusable = |error: &dyn std::fmt::Display| SourceError::new(format!("TLS cannot be used: {error}"));
        let provider = Arc::new(default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = versions.map_err(|error| unusable(&error))?;
        let builder = builder.with_root_certificates(authorities(parts.ca).await?);
        let config = match &parts.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = cert.certificates()?;
                let key = PrivateKeyDer::from_pem_slice(&key.text)
                    .map_err(|_| about(&key.place, "holds no private key in PEM"))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&error))?
            }
        };
        let name = ServerName::try_from(parts.name);
        let name = name.map_err(|_| SourceError::new("the server has no name for TLS"))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Asks the server for this protocol (RFC 7301).
    pub(super) fn speaking(self, protocol: &[u8]) -> Self {
        let mut config = ClientConfig::clone(self.connector.config());
        config.alpn_protocols = vec![protocol.to_vec()];
        Self { connector: TlsConnector::from(Arc::new(config)), ..self }
    }

    /// Agrees on keys with the server.
    pub(super) async fn wrap(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

/// What [`Tls`] is made of.
pub(super) struct TlsParts {
    /// The authorities; none are those of the system.
    pub(super) ca: Option<Pem>,
    /// Our certificate and its key.
    pub(super) identity: Option<(Pem, Pem)>,
    /// The name that the server must have.
    pub(super) name: String,
}

impl TlsParts {
    pub(super) async fn read(settings: &TlsSettings, host: &str) -> Result<Self, SourceError> {
        let ca = match &settings.ca_file {
            Some(path) => Some(Pem::read(path).await?),
            None => None,
        };
        let identity = match &settings.identity {
            Some(identity) => Some((Pem::read(&identity.cert_file).await?, Pem::read(&identity.key_file).await?)),
            None => None,
        };
        let name = settings.server_name.as_deref().unwrap_or(host).to_owned();
        Ok(Self { ca, identity, name })
    }
}

/// A text in PEM.
pub(super) struct Pem {
    /// Where it was found, for errors.
    pub(super) place: PathBuf,
    pub(super) text: Vec<u8>,
}

impl Pem {
    pub(super) async fn read(path: &Path) -> Result<Self, SourceError> {
        Ok(Self { place: path.into(), text: read(path).await? })
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, SourceError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.text).collect();
        let all = all.map_err(|_| about(&self.place, "is not PEM"))?;
        if all.is_empty() { Err(about(&self.place, "holds no certificate in PEM")) } else { Ok(all) }
    }
}

async fn authorities(named: Option<Pem>) -> Result<RootCertStore, SourceError> {
    let is_named = named.is_some();
    let system = SYSTEM.iter().map(Path::new).find(|path| path.exists());
    let pem = match (named, system) {
        (Some(pem), _) => pem,
        (None, Some(path)) => Pem::read(path).await?,
        (None, None) => {
            return Err(SourceError::new("the system has no list of authorities; name a file of them"));
        }
    };
    let mut store = RootCertStore::empty();
    // Of the system's authorities, some may be too old to be understood.
    let (added, ignored) = store.add_parsable_certificates(pem.certificates()?);
    match (added, ignored) {
        (0, _) => Err(about(&pem.place, "holds no authority that can be used")),
        (_, 1..) if is_named => Err(about(&pem.place, "holds an authority that cannot be used")),
        _ => Ok(store),
    }
}

/// Reads a file of at most 4 MiB.
pub(super) async fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let failed = |error: io::Error| about(path, &error.to_string());
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX_BYTES { Err(about(path, "is too long")) } else { Ok(bytes) }
}

pub(super) fn about(path: &Path, why: &str) -> SourceError {
    SourceError::new(format!("{}: {why}", path.display()))
}

/// Where systems keep their authorities: Debian and most others, Fedora and its kin, Alpine.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Systems have about 200 KiB of authorities.
const FILE_MAX_BYTES: u64 = 4 << 20;
