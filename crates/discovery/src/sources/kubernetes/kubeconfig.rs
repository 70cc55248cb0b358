//! What a kubeconfig file says of one cluster, as far as we follow it.
//!
//! What we do not follow is refused and not passed over: a file that names a program to run for a token would otherwise
//! end in a status 401 that nobody understands. Texts of the file may be secrets; no error repeats any but names.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use super::access::Token;
use crate::source::SourceError;
use crate::sources::base64;
use crate::sources::records::shortened;

/// What one context of a file leads to. Nothing in it was read from other files yet.
#[derive(PartialEq, Eq)]
pub(super) struct Context {
    pub(super) server: String,
    pub(super) ca: Option<Material>,
    /// Our certificate and its key.
    pub(super) identity: Option<(Material, Material)>,
    pub(super) server_name: Option<String>,
    pub(super) token: Token,
    pub(super) namespace: Option<String>,
}

/// Something in PEM.
#[derive(PartialEq, Eq)]
pub(super) enum Material {
    File(PathBuf),
    Text(Vec<u8>),
}

/// Reads the context of this name, or the current one. Relative paths begin in `folder`, that of the file.
pub(super) fn read(text: &[u8], context: Option<&str>, folder: &Path) -> Result<Context, SourceError> {
    let text = str::from_utf8(text).map_err(|_| wrong("it is not text"))?;
    let raw: Raw = serde_saphyr::from_str(text).map_err(|error| wrong(&place(&error)))?;
    let name = match context.unwrap_or(&raw.current_context) {
        "" => return Err(wrong("it has no current-context; name one")),
        name => name,
    };
    let context = find(&raw.contexts, name, "context").and_then(|it| it.context.as_ref().ok_or_else(|| empty(name)))?;
    let cluster = find(&raw.clusters, &context.cluster, "cluster")?;
    let cluster = cluster.cluster.as_ref().ok_or_else(|| empty(&context.cluster))?;
    let nobody = User::default();
    let user = match &*context.user {
        "" => &nobody,
        name => find(&raw.users, name, "user")?.user.as_ref().unwrap_or(&nobody),
    };
    cluster.refuse()?;
    user.refuse(&context.user)?;
    let material = |data: &Option<String>, file: &Option<PathBuf>, key: &str| material(data, file, key, folder);
    let cert = material(&user.client_certificate_data, &user.client_certificate, "client-certificate-data")?;
    let key = material(&user.client_key_data, &user.client_key, "client-key-data")?;
    if cert.is_some() != key.is_some() {
        return Err(wrong("a client certificate and its key go together, and one is missing"));
    }
    let ca = &cluster.certificate_authority_data;
    Ok(Context {
        server: cluster.server.clone(),
        ca: material(ca, &cluster.certificate_authority, "certificate-authority-data")?,
        identity: cert.zip(key),
        server_name: given(&cluster.tls_server_name),
        token: match (&user.token_file, given(&user.token)) {
            // The file wins, as with kubectl.
            (Some(file), _) if !file.as_os_str().is_empty() => Token::File(folder.join(file)),
            (_, Some(token)) => Token::Text(token),
            _ => Token::None,
        },
        namespace: given(&context.namespace),
    })
}

fn find<'a, T: Named>(all: &'a [T], name: &str, what: &str) -> Result<&'a T, SourceError> {
    let found = all.iter().find(|it| it.name() == name);
    found.ok_or_else(|| wrong(&format!("it has no {what} `{}`", shortened(name))))
}

/// Bytes in base64 win over a file, as with kubectl.
fn material(
    data: &Option<String>,
    file: &Option<PathBuf>,
    key: &str,
    folder: &Path,
) -> Result<Option<Material>, SourceError> {
    if let Some(data) = given(data) {
        let data: String = data.split_ascii_whitespace().collect();
        let text = base64::decode(&data).ok_or_else(|| wrong(&format!("its {key} is not base64")))?;
        return Ok(Some(Material::Text(text)));
    }
    let file = file.as_ref().filter(|file| !file.as_os_str().is_empty());
    Ok(file.map(|file| Material::File(folder.join(file))))
}

fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

fn wrong(why: &str) -> SourceError {
    SourceError::new(format!("kubeconfig: {why}"))
}

fn empty(name: &str) -> SourceError {
    wrong(&format!("`{}` says nothing", shortened(name)))
}

/// Where the text is no kubeconfig. The parser's own words may repeat the text.
fn place(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(location) => format!("it cannot be read, line {}", location.line()),
        None => "it cannot be read".to_owned(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    #[serde(default, deserialize_with = "nullable")]
    current_context: String,
    #[serde(default, deserialize_with = "nullable")]
    contexts: Vec<NamedContext>,
    #[serde(default, deserialize_with = "nullable")]
    clusters: Vec<NamedCluster>,
    #[serde(default, deserialize_with = "nullable")]
    users: Vec<NamedUser>,
}

/// An entry of one of the lists.
trait Named {
    fn name(&self) -> &str;
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Option<RawContext>,
}

#[derive(Deserialize)]
struct RawContext {
    #[serde(default, deserialize_with = "nullable")]
    cluster: String,
    #[serde(default, deserialize_with = "nullable")]
    user: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    #[serde(default, deserialize_with = "nullable")]
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    insecure_skip_tls_verify: bool,
    proxy_url: Option<String>,
}

impl Cluster {
    fn refuse(&self) -> Result<(), SourceError> {
        match (self.insecure_skip_tls_verify, given(&self.proxy_url)) {
            (true, _) => Err(wrong("insecure-skip-tls-verify is not done; give the certificate authority")),
            (_, Some(_)) => Err(wrong("a proxy-url is not followed")),
            (false, None) => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: Option<User>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    #[serde(rename = "as")]
    impersonated: Option<String>,
    exec: Option<Anything>,
    auth_provider: Option<Anything>,
}

impl User {
    fn refuse(&self, name: &str) -> Result<(), SourceError> {
        let what = match self {
            Self { exec: Some(Anything), .. } => "a program to run (exec), which is not done",
            Self { auth_provider: Some(Anything), .. } => "an auth-provider, which is not known",
            Self { username: Some(given), .. } if !given.is_empty() => {
                "a password, which API servers do not take any more"
            }
            Self { impersonated: Some(given), .. } if !given.is_empty() => "somebody to act as, which is not done",
            _ => return Ok(()),
        };
        Err(wrong(&format!("user `{}` has {what}; use a token, a tokenFile or a client certificate", shortened(name))))
    }
}

/// Something that is there, whatever it is.
struct Anything;

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Named for NamedContext {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for NamedCluster {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for NamedUser {
    fn name(&self) -> &str {
        &self.name
    }
}

fn nullable<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
#[path = "kubeconfig_tests.rs"]
mod tests;
