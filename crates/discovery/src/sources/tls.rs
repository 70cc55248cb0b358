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
        let unusable = |error: &dyn std::fmt::Display| SourceError::new(format!("TLS cannot be used: {error}"));
        let provider = Arc::new(default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = versions.map_err(|error| unusable(&error))?.with_root_certificates(authorities(settings).await?);
        let config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates(&identity.cert_file, &read(&identity.cert_file).await?)?;
                let key = PrivateKeyDer::from_pem_slice(&read(&identity.key_file).await?);
                let key = key.map_err(|_| about(&identity.key_file, "holds no private key in PEM"))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&error))?
            }
        };
        let name = settings.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|_| SourceError::new("the server has no name for TLS"))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Agrees on keys with the server.
    pub(super) async fn wrap(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

async fn authorities(settings: &TlsSettings) -> Result<RootCertStore, SourceError> {
    let system = SYSTEM.iter().map(Path::new).find(|path| path.exists());
    let Some(path) = settings.ca_file.as_deref().or(system) else {
        return Err(SourceError::new("the system has no list of authorities; name a file of them"));
    };
    let mut store = RootCertStore::empty();
    // Of the system's authorities, some may be too old to be understood.
    let (added, ignored) = store.add_parsable_certificates(certificates(path, &read(path).await?)?);
    match (added, ignored) {
        (0, _) => Err(about(path, "holds no authority that can be used")),
        (_, 1..) if settings.ca_file.is_some() => Err(about(path, "holds an authority that cannot be used")),
        _ => Ok(store),
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|_| about(path, "is not PEM"))?;
    if all.is_empty() { Err(about(path, "holds no certificate in PEM")) } else { Ok(all) }
}

async fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let failed = |error: io::Error| about(path, &error.to_string());
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX_BYTES { Err(about(path, "is too long")) } else { Ok(bytes) }
}

fn about(path: &Path, why: &str) -> SourceError {
    SourceError::new(format!("{}: {why}", path.display()))
}

/// Where systems keep their authorities: Debian and most others, Fedora and its kin, Alpine.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Systems have about 200 KiB of authorities.
const FILE_MAX_BYTES: u64 = 4 << 20;
