//! How the API server is found, how it is known, and how it knows us.

use std::path::{Path, PathBuf};

use hyper::header::HeaderValue;

use super::kubeconfig::{self, Material};
use crate::source::SourceError;
use crate::sources::fetch::{Client, Server};
use crate::sources::secret;
use crate::sources::tls::{self, Pem, Tls, TlsParts, TlsSettings};

/// Which cluster is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// The one that this process is a pod of: the server is in its environment, and the service account in this
    /// folder (`token`, `ca.crt`, `namespace`).
    Own {
        /// `/var/run/secrets/kubernetes.io/serviceaccount`, but for tests.
        folder: PathBuf,
    },
    /// One of a kubeconfig file.
    File {
        /// The file.
        path: PathBuf,
        /// The context; none is the file's current one.
        context: Option<String>,
    },
    /// The one of this server.
    Server {
        /// `https://HOST[:PORT]`, or `http` for a proxy on this machine.
        url: String,
        /// How it is known, and how it knows us.
        tls: TlsSettings,
        /// A file with a token for `Authorization: Bearer`. It is read for each question.
        token_file: Option<PathBuf>,
    },
}

impl Default for Cluster {
    fn default() -> Self {
        Self::Own { folder: SERVICE_ACCOUNT.into() }
    }
}

/// What a run needs to ask, as the files said when it began.
pub(super) struct Access {
    server: Server,
    /// The path before the API's own.
    pub(super) base: String,
    tls: Option<TlsParts>,
    token: Token,
    /// Where the service is looked for, unless the settings say so.
    pub(super) namespace: Option<String>,
}

/// What says who we are, if no certificate does.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Token {
    None,
    /// Read for each question: service accounts get a new one about every hour.
    File(PathBuf),
    Text(String),
}

impl Access {
    /// Reads what there is to read. `environment` gives the values of variables.
    pub(super) async fn read(
        cluster: &Cluster,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SourceError> {
        match cluster {
            Cluster::Own { folder } => Self::own(folder, environment).await,
            Cluster::File { path, context } => Self::file(path, context.as_deref()).await,
            Cluster::Server { url, tls, token_file } => {
                let (server, base) = server(url)?;
                let tls = if server.secure { Some(TlsParts::read(tls, server.host()).await?) } else { None };
                let token = token_file.clone().map_or(Token::None, Token::File);
                Ok(Self { server, base, tls, token, namespace: None })
            }
        }
    }

    async fn own(folder: &Path, environment: impl Fn(&str) -> Option<String>) -> Result<Self, SourceError> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let (Some(host), Some(port)) = (variable(HOST), variable(PORT)) else {
            let why = format!("this is no pod of a cluster ({HOST} is not set); name a kubeconfig or a url");
            return Err(SourceError::new(why));
        };
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        let (server, base) = server(&format!("https://{host}:{port}"))?;
        let ca = Pem::read(&folder.join("ca.crt")).await?;
        let tls = TlsParts { ca: Some(ca), identity: None, name: server.host().to_owned() };
        let namespace = secret::text(&folder.join("namespace")).await?;
        let token = Token::File(folder.join("token"));
        Ok(Self { server, base, tls: Some(tls), token, namespace: Some(namespace) })
    }

    async fn file(path: &Path, context: Option<&str>) -> Result<Self, SourceError> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let context = kubeconfig::read(&tls::read(path).await?, context, folder)?;
        let (server, base) = server(&context.server)?;
        let name = context.server_name.unwrap_or_else(|| server.host().to_owned());
        let identity = match context.identity {
            Some((cert, key)) => Some((pem(cert, path).await?, pem(key, path).await?)),
            None => None,
        };
        let ca = match context.ca {
            Some(ca) => Some(pem(ca, path).await?),
            None => None,
        };
        let tls = server.secure.then_some(TlsParts { ca, identity, name });
        Ok(Self { server, base, tls, token: context.token, namespace: context.namespace })
    }

    /// A client of the server.
    pub(super) async fn client(&mut self) -> Result<(Client<'_>, &Token), SourceError> {
        let tls = match self.tls.take() {
            Some(parts) => Some(Tls::of(parts).await?),
            None => None,
        };
        Ok((self.server.client_with(tls), &self.token))
    }
}

impl Token {
    /// What the header `Authorization` says.
    pub(super) async fn header(&self) -> Result<Option<HeaderValue>, SourceError> {
        let token = match self {
            Self::None => return Ok(None),
            Self::File(path) => &secret::text(path).await?,
            Self::Text(token) => token,
        };
        secret::bearer(token).map(Some)
    }
}

async fn pem(material: Material, file: &Path) -> Result<Pem, SourceError> {
    match material {
        Material::File(path) => Pem::read(&path).await,
        Material::Text(text) => Ok(Pem { place: file.into(), text }),
    }
}

/// The server of a URL, and the path before the API's own.
pub(super) fn server(url: &str) -> Result<(Server, String), SourceError> {
    let (server, base) = Server::parse(url)?;
    match base.contains('?') {
        true => Err(SourceError::new("the URL of the API server has a question mark in it")),
        false => Ok((server, base.trim_end_matches('/').to_owned())),
    }
}

/// Where a pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: [(&str, &str); 2] = [(HOST, "10.96.0.1"), (PORT, "443")];

    async fn own(folder: &Path, environment: &[(&str, &str)]) -> Result<Access, String> {
        let value = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        let cluster = Cluster::Own { folder: folder.into() };
        Access::read(&cluster, value).await.map_err(|error| error.text().to_owned())
    }

    #[tokio::test]
    async fn a_pod_finds_its_cluster_in_its_environment_and_its_account_in_a_folder() {
        let folder = std::env::temp_dir().join(format!("dislocate-account-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in [("token", "t0ken\n"), ("namespace", "shop\n"), ("ca.crt", "PEM")] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let access = own(&folder, &HERE).await.unwrap();
        assert_eq!((access.server.host(), access.server.secure, access.base.as_str()), ("10.96.0.1", true, ""));
        assert_eq!(access.namespace.as_deref(), Some("shop"));
        let header = access.token.header().await.unwrap().expect("it has a token");
        assert!(header == "Bearer t0ken" && header.is_sensitive());
        let tls = access.tls.expect("it speaks TLS");
        assert_eq!((&*tls.name, tls.ca.unwrap().text), ("10.96.0.1", b"PEM".to_vec()));
        for host in ["fd00::1", "[fd00::1]"] {
            let access = own(&folder, &[(HOST, host), (PORT, "6443")]).await.unwrap();
            assert_eq!(access.server.host(), "fd00::1");
        }

        for environment in [&[][..], &HERE[..1], &[(HOST, ""), (PORT, "443")]] {
            let error = own(&folder, environment).await.err().expect("it is no pod");
            assert!(error.contains("this is no pod of a cluster"), "{error}");
        }
        for missing in ["ca.crt", "namespace"] {
            std::fs::rename(folder.join(missing), folder.join("aside")).unwrap();
            let error = own(&folder, &HERE).await.err().expect("half an account is none");
            assert!(error.contains(missing), "{error}");
            std::fs::rename(folder.join("aside"), folder.join(missing)).unwrap();
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
