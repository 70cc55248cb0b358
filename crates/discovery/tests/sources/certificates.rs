//! Authorities and certificates for servers that speak TLS.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use discovery::sources::{TlsIdentity, TlsSettings};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::support::Scratch;

/// Authorities and certificates, made by the `openssl` program.
pub struct Certificates(Scratch);

impl Certificates {
    pub fn new(name: &str) -> Self {
        let all = Self(Scratch::new(name));
        all.authority("ca");
        all.authority("other");
        all.certificate("server", "subjectAltName=IP:127.0.0.1,DNS:registry.example");
        all.certificate("client", "subjectAltName=DNS:us");
        all
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output =
            Command::new("openssl").args(arguments.split(' ')).current_dir(&self.0.0).output().expect("it runs");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn authority(&self, name: &str) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        self.openssl(&format!("req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"));
    }

    pub fn certificate(&self, name: &str, extension: &str) {
        fs::write(self.file("extension"), extension).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        self.openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        self.sign(name, 2);
    }

    /// Signs a certificate again, for so many days from now.
    pub fn sign(&self, name: &str, days: i32) {
        let by = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile extension";
        self.openssl(&format!("x509 -req -in {name}.csr {by} -out {name}.pem -days {days}"));
    }

    pub fn acceptor(&self, asks_who: bool) -> TlsAcceptor {
        TlsAcceptor::from(Arc::new(self.server(asks_who)))
    }

    /// One that speaks this protocol and no other.
    pub fn acceptor_of(&self, asks_who: bool, protocol: &[u8]) -> TlsAcceptor {
        let mut config = self.server(asks_who);
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn server(&self, asks_who: bool) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let chain = vec![CertificateDer::from_pem_file(self.file("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.file("server.key")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        let builder = match asks_who {
            true => builder.with_client_cert_verifier(verifier.build().unwrap()),
            false => builder.with_no_client_auth(),
        };
        builder.with_single_cert(chain, key).unwrap()
    }

    pub fn settings(&self) -> TlsSettings {
        TlsSettings { ca_file: Some(self.file("ca.pem")), ..TlsSettings::default() }
    }

    pub fn identity(&self, cert: &str, key: &str) -> TlsSettings {
        let identity = TlsIdentity { cert_file: self.file(cert), key_file: self.file(key) };
        TlsSettings { identity: Some(identity), ..self.settings() }
    }
}
