use super::*;

/// As kubectl and the tools around it write it.
const FILE: &str = r#"apiVersion: v1
kind: Config
preferences: {}
current-context: prod
clusters:
- cluster:
    certificate-authority-data: Y2E=
    server: https://10.0.0.1:6443
  name: prod
- name: test
  cluster:
    certificate-authority: pki/ca.crt
    server: "https://test.example/k8s"
    tls-server-name: kubernetes
contexts:
- context:
    cluster: prod
    namespace: shop
    user: admin
  name: prod
- {name: test, context: {cluster: test, user: robot}}
- {name: nobody, context: {cluster: test}}
- {name: cloud, context: {cluster: prod, user: cloud}}
- {name: nowhere, context: {cluster: gone, user: admin}}
- {name: noone, context: {cluster: prod, user: gone}}
users:
- name: admin
  user:
    client-certificate-data: Y2Vy
      dA==
    client-key-data: a2V5
- name: robot
  user:
    token: abc
    tokenFile: /run/token
- name: cloud
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: aws
      args: [eks, get-token]
      env: null
"#;

fn context(name: &str) -> Result<Context, SourceError> {
    read(FILE.as_bytes(), Some(name), Path::new("/home/me/.kube"))
}

fn good(found: Result<Context, SourceError>) -> Context {
    found.unwrap_or_else(|error| panic!("it is refused: {error}"))
}

fn refused(text: &str) -> String {
    let error = read(text.as_bytes(), None, Path::new("/"));
    error.err().unwrap_or_else(|| panic!("it is taken:\n{text}")).text().to_owned()
}

/// A file of one context with these fields of its cluster and user.
fn with(cluster: &str, user: &str) -> String {
    format!(
        "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://h', {cluster}}}}}]\n\
         users: [{{name: u, user: {{{user}}}}}]\n"
    )
}

#[test]
fn the_current_context_is_followed() {
    let found = good(read(FILE.as_bytes(), None, Path::new("/")));
    assert_eq!(
        (&*found.server, found.namespace.as_deref(), &found.server_name),
        ("https://10.0.0.1:6443", Some("shop"), &None)
    );
    assert!(found.ca == Some(Material::Text(b"ca".to_vec())) && found.token == Token::None);
    assert!(
        found.identity == Some((Material::Text(b"cert".to_vec()), Material::Text(b"key".to_vec()))),
        "wrapped base64"
    );
}

#[test]
fn a_context_can_be_named_and_paths_begin_beside_the_file() {
    let found = good(context("test"));
    assert_eq!((&*found.server, found.server_name.as_deref()), ("https://test.example/k8s", Some("kubernetes")));
    assert!(found.ca == Some(Material::File("/home/me/.kube/pki/ca.crt".into())) && found.namespace.is_none());
    assert!(found.token == Token::File("/run/token".into()), "the file wins");
    let nobody = good(context("nobody"));
    assert!(nobody.token == Token::None && nobody.identity.is_none());
}

#[test]
fn the_same_in_json_is_taken() {
    let text = r#"{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://h"}}], "users": null}"#;
    assert!(read(text.as_bytes(), None, Path::new("/")).is_ok_and(|found| found.server == "https://h"));
}

#[test]
fn what_is_not_followed_is_refused_by_name() {
    let cases = [
        (context("cloud"), "user `cloud` has a program to run (exec), which is not done; use a token"),
        (context("elsewhere"), "it has no context `elsewhere`"),
        (context("nowhere"), "it has no cluster `gone`"),
        (context("noone"), "it has no user `gone`"),
    ];
    for (found, expected) in cases {
        let error = found.err().expect(expected);
        assert!(error.text().contains(expected), "{expected}: {error}");
    }
    let cases = [
        (with("", "auth-provider: {name: gcp}"), "an auth-provider"),
        (with("", "username: me, password: sesame"), "a password, which API servers"),
        (with("", "as: root, token: sesame"), "somebody to act as"),
        (with("insecure-skip-tls-verify: true", ""), "insecure-skip-tls-verify is not done"),
        (with("proxy-url: 'http://proxy'", ""), "a proxy-url is not followed"),
        (with("", "client-certificate: /c"), "one is missing"),
        (with("", "client-key-data: a2V5"), "one is missing"),
        (with("certificate-authority-data: '?sesame'", ""), "certificate-authority-data is not base64"),
        (with("", "token: [sesame]"), "it cannot be read, line 4"),
        (with("", "token: 'sesame").replace("'sesame", "\"sesame"), "it cannot be read"),
        ("current-context: ''".into(), "no current-context"),
        ("".into(), "no current-context"),
        ("[]".into(), "it cannot be read"),
        ("current-context: c\ncontexts: [{name: c}]".into(), "`c` says nothing"),
        ("a: &a [*a, *a]\ncurrent-context: *b".into(), "it cannot be read"),
    ];
    for (text, expected) in cases {
        let said = refused(&text);
        assert!(said.contains(expected), "{expected}: {said} for\n{text}");
        assert!(!said.contains("sesame"), "a secret is repeated: {said}");
    }
    assert!(read(b"\xff", None, Path::new("/")).is_err());
}

#[test]
fn no_file_is_too_deep_or_grows_when_it_is_read() {
    let deep = format!("x: {}", "[".repeat(500_000));
    assert!(refused(&deep).contains("cannot be read"));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let last = n - 1;
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{last}"); 9].join(", ")));
    }
    let begun = std::time::Instant::now();
    refused(&bomb);
    assert!(begun.elapsed().as_secs() < 20, "aliases are not unfolded without end");
}
