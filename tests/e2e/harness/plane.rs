//! A control plane that speaks xDS, in Envoy's own types: a cluster `web` and what it names as its endpoints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use prost::Message;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::xds_server::{ControlPlane, Talk};
use super::xds_types::{
    ASSIGNMENT, CLUSTER, ClusterLoadAssignment, DeltaDiscoveryRequest, HealthStatus, Resource, assignment, eds,
    endpoint, locality, resource, response, with_health,
};
use super::{eventually, loopback};

/// The control plane, which can die and return where it was. What it knows, it knows from then on.
#[derive(Debug)]
pub struct Plane {
    address: SocketAddr,
    says: watch::Sender<Says>,
    heard: watch::Sender<Heard>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

/// A type and a name.
type Key = (&'static str, String);

/// The version of each resource, and the resource unless it is gone. Of others it says nothing.
#[derive(Clone, Debug, Default)]
struct Says {
    resources: BTreeMap<Key, (String, Option<Resource>)>,
    version: u64,
}

/// What clients have said.
#[derive(Debug, Default)]
struct Heard {
    subscribed: Vec<String>,
    /// Why the last answer was refused.
    refusal: Option<String>,
    /// Versions that a new stream began with.
    began_with: BTreeMap<String, String>,
}

impl Plane {
    /// Its cluster has these endpoints, each with its health: `up`, `down`, `draining`.
    pub fn of(endpoints: &[(&str, &str)]) -> Plane {
        let says = watch::Sender::new(Says::default());
        let heard = watch::Sender::new(Heard::default());
        let (address, running) = run(&format!("{}:0", loopback()), &says, &heard);
        let plane = Plane { address, says, heard, running: Some(running) };
        plane.names("web/v1");
        plane.has(endpoints);
        plane
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The cluster's endpoints are those of this name from now on.
    pub fn names(&self, service: &str) {
        self.put(CLUSTER, "web", Some(&eds("web", service)));
    }

    /// The endpoints of the name `web/v1` from now on.
    pub fn has(&self, endpoints: &[(&str, &str)]) {
        self.assigns("web/v1", endpoints);
    }

    /// The endpoints of this name.
    pub fn assigns(&self, name: &str, endpoints: &[(&str, &str)]) {
        let health = |word: &str| match word {
            "up" => HealthStatus::Healthy,
            "down" => HealthStatus::Unhealthy,
            "draining" => HealthStatus::Draining,
            other => panic!("{other} is no health"),
        };
        let all = endpoints.iter().map(|&(address, word)| with_health(health(word), endpoint(address))).collect();
        self.put(ASSIGNMENT, name, Some(&assignment(name, vec![locality("eu", "eu-1a", 0, all)])));
    }

    /// There is no such cluster any more.
    pub fn has_no_cluster(&self) {
        self.put(CLUSTER, "web", None::<&ClusterLoadAssignment>);
    }

    fn put(&self, type_url: &'static str, name: &str, body: Option<&impl Message>) {
        self.says.send_modify(|says| {
            says.version += 1;
            let version = says.version.to_string();
            let resource = body.map(|body| resource(name, &version, type_url, body));
            says.resources.insert((type_url, name.to_owned()), (version, resource));
        });
    }

    /// Waits until somebody asks for this.
    pub fn is_asked_for(&self, name: &str) {
        let asked = || self.heard.borrow().subscribed.iter().any(|it| it == name);
        eventually(&format!("{name} is asked for"), asked);
    }

    /// Waits until an answer is refused, and returns why.
    pub fn is_refused(&self) -> String {
        eventually("an answer is refused", || self.heard.borrow().refusal.is_some());
        self.heard.borrow().refusal.clone().unwrap()
    }

    /// The versions that the last stream began with.
    pub fn began_with(&self) -> BTreeMap<String, String> {
        self.heard.borrow().began_with.clone()
    }

    /// Ends every connection, and takes none.
    pub fn stop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            stop.cancel();
            thread.join().expect("it does not panic");
        }
    }

    /// Runs again where it was.
    pub fn start_again(&mut self) {
        self.heard.send_modify(|heard| *heard = Heard::default());
        self.running = Some(run(&self.address.to_string(), &self.says, &self.heard).1);
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(Running { stop, .. }) = self.running.take() {
            stop.cancel();
        }
    }
}

fn run(address: &str, says: &watch::Sender<Says>, heard: &watch::Sender<Heard>) -> (SocketAddr, Running) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut plane = runtime.block_on(ControlPlane::on(address, None));
    let (address, stop) = (plane.address, CancellationToken::new());
    let (stopping, says, heard) = (stop.clone(), says.clone(), heard.clone());
    let thread = thread::spawn(move || {
        let served = async {
            loop {
                let talk = plane.talk().await;
                tokio::spawn(serve(talk, says.subscribe(), heard.clone()));
            }
        };
        runtime.block_on(stopping.run_until_cancelled(served));
    });
    (address, Running { stop, thread })
}

/// Answers one stream until its client leaves.
async fn serve(mut talk: Talk, mut says: watch::Receiver<Says>, heard: watch::Sender<Heard>) {
    // What is asked for, with the version that the client has.
    let mut subscribed: BTreeMap<Key, Option<String>> = BTreeMap::new();
    let mut nonce = 0;
    loop {
        tokio::select! {
            request = talk.request() => match request {
                Some(request) => take(&request, &mut subscribed, &heard),
                None => return,
            },
            changed = says.changed() => if changed.is_err() { return },
        }
        let now = says.borrow_and_update().clone();
        for (key, has) in &mut subscribed {
            let Some((version, resource)) = now.resources.get(key) else { continue };
            if has.as_ref() != Some(version) {
                nonce += 1;
                *has = Some(version.clone());
                let removed: &[&str] = if resource.is_none() { &[&key.1] } else { &[] };
                talk.send(&response(key.0, &nonce.to_string(), resource.iter().cloned().collect(), removed));
            }
        }
    }
}

fn take(request: &DeltaDiscoveryRequest, subscribed: &mut BTreeMap<Key, Option<String>>, heard: &watch::Sender<Heard>) {
    let type_url = [CLUSTER, ASSIGNMENT].into_iter().find(|it| *it == request.type_url).expect("one of two types");
    for name in &request.resource_names_unsubscribe {
        subscribed.remove(&(type_url, name.clone()));
    }
    for name in &request.resource_names_subscribe {
        subscribed.insert((type_url, name.clone()), request.initial_resource_versions.get(name).cloned());
    }
    heard.send_modify(|heard| {
        heard.subscribed.extend(request.resource_names_subscribe.iter().cloned());
        heard.began_with.extend(request.initial_resource_versions.clone());
        if let Some(error) = &request.error_detail {
            heard.refusal = Some(error.message.clone());
        }
    });
}
