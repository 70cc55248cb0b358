//! Endpoints from a page over TLS.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use discovery::sources::{Cluster, KubernetesSettings, KubernetesSource};
use discovery::sources::{ConsulSettings, ConsulSource, EtcdSettings, EtcdSource};
use discovery::sources::{HttpSettings, HttpSource, TlsSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::certificates::Certificates;
use crate::http_server::{Reply, WebServer};
use crate::support::{PATIENCE, Run, needs_tools};

const PAGE: &str = r#"{"endpoints": [{"address": "10.0.0.1:80"}]}"#;

/// Serves the page over TLS.
async fn serve(acceptor: TlsAcceptor) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Those who do not trust us leave.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _asked = stream.read(&mut [0; 4096]).await;
            let page = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{PAGE}", PAGE.len());
            let _sent = stream.write_all(page.as_bytes()).await;
            let _closed = stream.shutdown().await;
        }
    });
    (address, AbortOnDropHandle::new(task))
}

fn run(address: SocketAddr, tls: TlsSettings) -> Run {
    let settings = HttpSettings {
        tls,
        interval: Duration::from_millis(5),
        timeout: PATIENCE,
        ..HttpSettings::new(format!("https://{address}/"))
    };
    Run::of(HttpSource::new(settings).expect("good settings"))
}

#[tokio::test]
async fn a_server_is_known_by_its_authority_and_its_name() {
    if !needs_tools(&["openssl"]) {
        return;
    }
    let all = Certificates::new("tls-server");
    let (address, _serving) = serve(all.acceptor(false)).await;
    let mut good = run(address, all.settings());
    assert_eq!(good.ids().await, ["10.0.0.1:80"]);
    good.alive().await;
    let named = |name: &str| TlsSettings { server_name: Some(name.into()), ..all.settings() };
    assert_eq!(run(address, named("registry.example")).ids().await, ["10.0.0.1:80"]);

    let by = |file: &str| TlsSettings { ca_file: Some(all.file(file)), ..TlsSettings::default() };
    fs::write(all.file("empty.pem"), "").unwrap();
    fs::write(all.file("broken.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    fs::write(all.file("strange.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let bad = [
        (by("other.pem"), "TLS with 127.0.0.1: invalid peer certificate: UnknownIssuer"),
        (named("elsewhere.example"), "TLS with 127.0.0.1: invalid peer certificate"),
        (named("a b"), "no name for TLS"),
        (by("missing.pem"), "missing.pem: No such file"),
        (by("empty.pem"), "empty.pem: holds no certificate"),
        (by("broken.pem"), "broken.pem: is not PEM"),
        (by("strange.pem"), "strange.pem: holds no authority that can be used"),
    ];
    for (tls, expected) in bad {
        let error = run(address, tls).error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn a_certificate_whose_time_is_over_is_an_error() {
    if !needs_tools(&["openssl"]) {
        return;
    }
    let all = Certificates::new("tls-expired");
    let (address, _serving) = serve(all.acceptor(false)).await;
    let mut run = self::run(address, all.settings());
    assert_eq!(run.ids().await, ["10.0.0.1:80"]);
    all.certificate("server", "subjectAltName=IP:127.0.0.1");
    all.sign("server", -1);
    let (address, _serving) = serve(all.acceptor(false)).await;
    let error = self::run(address, all.settings()).error().await;
    assert!(error.contains("invalid peer certificate: Expired"), "{error}");
}

#[tokio::test]
async fn a_server_that_asks_who_we_are_is_told() {
    if !needs_tools(&["openssl"]) {
        return;
    }
    let all = Certificates::new("tls-client");
    let (address, _serving) = serve(all.acceptor(true)).await;
    assert_eq!(run(address, all.identity("client.pem", "client.key")).ids().await, ["10.0.0.1:80"]);
    let bad = [
        (all.settings(), "CertificateRequired"),
        (all.identity("other.pem", "other.key"), ""),
        (all.identity("client.pem", "server.key"), "TLS cannot be used"),
        (all.identity("client.pem", "client.pem"), "holds no private key"),
    ];
    for (tls, expected) in bad {
        let error = run(address, tls).error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn certificates_of_a_kubeconfig_are_used_from_files_and_as_they_stand_in_it() {
    if !needs_tools(&["openssl"]) {
        return;
    }
    let all = Certificates::new("tls-kubeconfig");
    let (address, _serving) = serve(all.acceptor(true)).await;
    let data = |name: &str| {
        let output = Command::new("openssl").args(["base64", "-A", "-in"]).arg(all.file(name)).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let run = |cluster: &str, user: &str| {
        let path = all.file("config");
        let text = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://{address}', {cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        );
        fs::write(&path, text).unwrap();
        let cluster = Cluster::File { path, context: None };
        let settings = KubernetesSettings { cluster, timeout: PATIENCE, ..KubernetesSettings::new("web") };
        Run::of(KubernetesSource::new(settings).expect("good settings"))
    };
    let ca = format!("certificate-authority-data: {}", data("ca.pem"));
    let identity = format!("client-certificate-data: {}, client-key-data: {}", data("client.pem"), data("client.key"));
    // What is served is no list of slices; that it was read is what counts.
    let good = [
        (ca.as_str(), identity.as_str()),
        ("certificate-authority: ca.pem", "client-certificate: client.pem, client-key: client.key"),
        ("certificate-authority: ca.pem, tls-server-name: registry.example", identity.as_str()),
    ];
    for (cluster, user) in good {
        let error = run(cluster, user).error().await;
        assert!(error.contains("not as expected: missing field"), "{error}");
    }
    let bad = [
        (format!("certificate-authority-data: {}", data("other.pem")), identity.clone(), "UnknownIssuer"),
        (format!("{ca}, tls-server-name: elsewhere.example"), identity.clone(), "invalid peer certificate"),
        (ca.clone(), String::new(), "CertificateRequired"),
        (ca.clone(), "client-certificate: gone.pem, client-key: client.key".into(), "gone.pem: No such file"),
        ("certificate-authority-data: AAAA".into(), identity.clone(), "config: holds no certificate"),
    ];
    for (cluster, user, expected) in bad {
        let error = run(&cluster, &user).error().await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_an_error() {
    if !needs_tools(&["openssl"]) {
        return;
    }
    let all = Certificates::new("tls-plain");
    let server = WebServer::start(|_| Reply::ok(PAGE)).await;
    // It waits for the end of a head that never comes, as do we for its answer.
    let settings = HttpSettings {
        tls: all.settings(),
        timeout: Duration::from_millis(300),
        ..HttpSettings::new(format!("https://{}/", server.address))
    };
    let error = Run::of(HttpSource::new(settings).unwrap()).error().await;
    assert_eq!(error, "no answer in 300 ms");
}

#[test]
fn settings_for_tls_that_nothing_uses_are_refused() {
    let tls = TlsSettings { ca_file: Some(Path::new("/ca.pem").into()), ..TlsSettings::default() };
    let http = |url: &str| HttpSource::new(HttpSettings { tls: tls.clone(), ..HttpSettings::new(url) }).is_ok();
    assert!(http("https://h/") && !http("http://h/"));
    let consul = |url: &str| {
        ConsulSource::new(ConsulSettings { url: url.into(), tls: tls.clone(), ..ConsulSettings::new("web") }).is_ok()
    };
    assert!(consul("https://h") && !consul("http://h"));
    let etcd = |url: &str| {
        EtcdSource::new(EtcdSettings { urls: vec![url.into()], tls: tls.clone(), ..EtcdSettings::new("/web/") }).is_ok()
    };
    assert!(etcd("https://h") && !etcd("http://h"));
}
