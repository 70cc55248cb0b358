//! Endpoints from the cluster that this process is a pod of: an API server over TLS, and an account that is renewed.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use discovery::sources::{Cluster, KubernetesSettings, KubernetesSource};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::certificates::Certificates;
use crate::http_server::{Asked, WebServer};
use crate::kube_server::{LIST, bookmark, ended, is_watch, list, refusal, slice};
use crate::support::{PATIENCE, Run, loopback, needs_tools};

/// The environment of a process is made for it, so this is a process of its own.
#[test]
fn a_pod_follows_its_own_cluster_and_renews_its_account() {
    if !needs_tools(&["openssl"]) {
        return;
    }
    if let Ok(host) = std::env::var(POD) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(as_a_pod(&host));
    }
    let host = loopback().to_string();
    let name = "pod::a_pod_follows_its_own_cluster_and_renews_its_account";
    let mut pod = Command::new(std::env::current_exe().unwrap());
    pod.args(["--exact", name, "--nocapture"]).env(POD, &host);
    pod.env("KUBERNETES_SERVICE_HOST", &host).env("KUBERNETES_SERVICE_PORT", PORT.to_string());
    let output = pod.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

async fn as_a_pod(host: &str) {
    let all = Certificates::new("pod");
    all.certificate("server", &format!("subjectAltName=IP:{host}"));
    let account = all.file("account");
    fs::create_dir(&account).unwrap();
    let write = |name: &str, text: &[u8]| place(&account.join(name), text);
    write("token", b"first\n");
    write("namespace", b"shop");
    write("ca.crt", &fs::read(all.file("ca.pem")).unwrap());

    // Each token is for one question, since it is renewed at each.
    let (tokens, renewed) = (["first", "second", "third"], account.clone());
    let mut asked = 0;
    let server = WebServer::start(move |question: &Asked| {
        asked += 1;
        if question.header("authorization") != Some(&format!("Bearer {}", tokens[(asked - 1) % 3])) {
            return refusal(401, "Unauthorized");
        }
        place(&renewed.join("token"), tokens[asked % 3].as_bytes());
        match is_watch(question) {
            true => ended(&[bookmark(12)]),
            false => list(11, &[slice("web-1", &[(1, "ready")])]),
        }
    })
    .await;
    let _tls = terminate(all.acceptor(false), format!("{host}:{PORT}").parse().unwrap(), server.address).await;
    let settings = KubernetesSettings {
        cluster: Cluster::Own { folder: account.clone() },
        timeout: PATIENCE,
        renew: Duration::ZERO,
        ..KubernetesSettings::new("web")
    };
    let source = Arc::new(KubernetesSource::new(settings).unwrap());
    let mut run = Run::again(&source);
    assert_eq!(run.ids().await, ["10.0.0.1:8080"]);
    // Two watches, of each its beginning and its bookmark.
    for _ in 0..4 {
        run.alive().await;
    }
    drop(run);
    let asked = server.asked();
    assert!(asked[0].line.starts_with(LIST), "in the namespace of its account: {}", asked[0].line);
    assert_eq!(asked[0].header("host"), Some(&*format!("{host}:{PORT}")));

    // The account is another, in another namespace.
    server.change(|question: &Asked| match question.header("authorization") {
        Some("Bearer other") if question.line.contains("/namespaces/yard/") => {
            list(21, &[slice("web-1", &[(2, "ready")])])
        }
        _ => refusal(401, "Unauthorized"),
    });
    assert_eq!(Run::again(&source).error().await, "status 401: Unauthorized");
    write("token", b"other");
    write("namespace", b"yard\n");
    assert_eq!(Run::again(&source).ids().await, ["10.0.0.2:8080"]);

    // Its server is one that the account's authority does not know.
    write("ca.crt", &fs::read(all.file("other.pem")).unwrap());
    let error = Run::again(&source).error().await;
    assert!(error.contains("invalid peer certificate: UnknownIssuer"), "{error}");
    write("ca.crt", &fs::read(all.file("ca.pem")).unwrap());
    assert_eq!(Run::again(&source).ids().await, ["10.0.0.2:8080"], "it is read anew by each run");
    for (file, text, expected) in [
        ("namespace", &b"../kube-system"[..], "no namespace can be called"),
        ("namespace", b"", "namespace: is empty"),
        ("token", b"", "token: is empty"),
        ("ca.crt", b"", "ca.crt: holds no certificate"),
    ] {
        let before = fs::read(account.join(file)).unwrap();
        write(file, text);
        let error = Run::again(&source).error().await;
        assert!(error.contains(expected), "{expected}: {error}");
        write(file, &before);
    }
}

/// Puts a file in place as the kubelet does.
fn place(path: &Path, text: &[u8]) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

/// Speaks TLS at `at` for a server that does not.
async fn terminate(acceptor: TlsAcceptor, at: SocketAddr, server: SocketAddr) -> AbortOnDropHandle<()> {
    let listener = TcpListener::bind(at).await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Those who do not trust us leave, and others when they have heard enough.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let Ok(mut plain) = TcpStream::connect(server).await else { return };
                let _left = copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    }))
}

/// Says to a process of this test that it is the pod, and at which address its API server is to be.
const POD: &str = "DISLOCATE_TEST_POD";
const PORT: u16 = 6443;
