//! Services whose backends are found by sources.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use balance::{Active, Address, Ledger, Reported};
use discovery::{
    Event, Found, HealthConfig, Membership, Reach, ServiceConfig, Services, Sink, Source, SourceConfig, SourceError,
    SourceReport, SourceState, Update,
};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};

use crate::support::{Refusing, SERVICE, Scratch, TCP, listener, service, services, states, until};

/// A registry in the hands of the test.
struct Script {
    steps: Mutex<mpsc::UnboundedReceiver<Step>>,
    runs: AtomicU32,
}

enum Step {
    Say(Event),
    Fail(&'static str),
    /// Fails, and asks for this pause.
    FailFor(Duration),
    Panic,
}

impl Source for Script {
    fn kind(&self) -> &'static str {
        "script"
    }

    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>> {
        Box::pin(async move {
            self.runs.fetch_add(1, Relaxed);
            let mut steps = self.steps.lock().await;
            loop {
                match steps.recv().await {
                    Some(Step::Say(event)) => sink.send(event).await.expect("somebody listens"),
                    Some(Step::Fail(text)) => return SourceError::new(text),
                    Some(Step::FailFor(pause)) => return SourceError::new("busy").with_retry_after(Some(pause)),
                    Some(Step::Panic) => panic!("a source with a bug"),
                    None => std::future::pending().await,
                }
            }
        })
    }
}

/// A source and the pen that writes its script.
struct Pen {
    script: Arc<Script>,
    steps: mpsc::UnboundedSender<Step>,
}

impl Pen {
    fn new() -> Self {
        let (steps, receiver) = mpsc::unbounded_channel();
        Self { script: Arc::new(Script { steps: Mutex::new(receiver), runs: AtomicU32::new(0) }), steps }
    }

    fn source(&self, name: &str, identity: &str) -> SourceConfig {
        let source: Arc<dyn Source> = self.script.clone();
        let (name, identity) = (name.into(), identity.into());
        SourceConfig { name, identity, source, reach: Reach::Any, max_endpoints: 10 }
    }

    fn step(&self, step: Step) {
        self.steps.send(step).expect("the script is there");
    }

    fn list(&self, addresses: &[&Address]) {
        let found = addresses.iter().map(|&address| found(address)).collect();
        for event in [Event::Begin, Event::Upsert(found), Event::End] {
            self.step(Step::Say(event));
        }
    }

    fn runs(&self) -> u32 {
        self.script.runs.load(Relaxed)
    }
}

fn found(address: &Address) -> Found {
    let id = address.to_string().into();
    Found { id, address: address.clone(), weight: 1, zone: None, priority: 0, reported: Reported::Ready }
}

fn sourced(fixed: &[Address], health: Option<HealthConfig>, sources: Vec<SourceConfig>) -> ServiceConfig {
    let membership = Membership { sources, ..Membership::default() };
    ServiceConfig { health, membership, ..service(SERVICE, TCP, fixed) }
}

fn addresses(services: &Services) -> BTreeSet<Address> {
    let reader = services.reader(SERVICE).expect("the service is there");
    let set = reader.load();
    set.backends().iter().map(|backend| backend.address().clone()).collect()
}

fn report(services: &Services) -> SourceReport {
    services.overview().sources().into_iter().next().expect("there is a source")
}

fn set_of<const N: usize>(addresses: [&Address; N]) -> BTreeSet<Address> {
    addresses.into_iter().cloned().collect()
}

async fn inet() -> (TcpListener, Address) {
    let (listener, address) = listener().await;
    (listener, address.into())
}

#[tokio::test]
async fn what_a_source_finds_joins_the_configured_backends_and_is_checked_like_them() {
    let ((_a, fixed), (_b, good), refusing, pen) = (inet().await, inet().await, Refusing::new(), Pen::new());
    let bad = refusing.address();
    let mut services = services(&Ledger::new(1_000));
    let health = service(SERVICE, TCP, &[]).health;
    services.apply(vec![sourced(std::slice::from_ref(&fixed), health, vec![pen.source("one", "x")])]);
    assert_eq!((addresses(&services), report(&services).state), (set_of([&fixed]), SourceState::Starting));

    pen.list(&[&good, &bad]);
    until(|| addresses(&services) == set_of([&fixed, &good, &bad])).await;
    until(|| BTreeSet::from_iter(states(&services).iter().map(|it| it.as_str())) == ["down", "up"].into()).await;
    assert!(!states(&services).contains(&Active::Unknown), "all of them are checked");

    let report = report(&services);
    assert_eq!((&*report.service, &*report.name, report.kind), (SERVICE, "one", "script"));
    assert_eq!((report.state, report.endpoints, report.is_confirmed), (SourceState::Live, 2, true));
    assert!(report.last_success_ms.is_some() && report.last_error.is_none());
    assert_eq!(report.updates[0], (Update::Changed, 1));
    let members = services.overview().members(SERVICE).expect("the service is there");
    let sources = members.iter().map(|member| (member.address.clone(), member.source.as_deref()));
    let expected = BTreeSet::from([(fixed, None), (good, Some("one")), (bad, Some("one"))]);
    assert_eq!(sources.collect::<BTreeSet<_>>(), expected);
}

#[tokio::test]
async fn a_source_that_fails_or_panics_is_started_again_and_what_it_said_stands() {
    let ((_a, first), (_b, second), pen) = (inet().await, inet().await, Pen::new());
    let mut services = services(&Ledger::new(1_000));
    services.apply(vec![sourced(&[], None, vec![pen.source("one", "x")])]);
    pen.list(&[&first]);
    pen.step(Step::Fail("the registry hung up"));
    until(|| report(&services).state == SourceState::Failing).await;
    until(|| addresses(&services) == set_of([&first])).await;
    assert_eq!(report(&services).last_error.map(|(text, _)| text).as_deref(), Some("the registry hung up"));

    until(|| pen.runs() == 2).await;
    pen.step(Step::Say(Event::Begin));
    pen.step(Step::Panic);
    until(|| pen.runs() == 3).await;
    assert_eq!(addresses(&services), set_of([&first]), "half a list and a bug take nothing away");

    pen.list(&[&first, &second]);
    until(|| report(&services).state == SourceState::Live).await;
    until(|| addresses(&services) == set_of([&first, &second])).await;
    assert_eq!(
        report(&services).updates,
        [(Update::Changed, 2), (Update::Unchanged, 0), (Update::Refused, 0), (Update::Failed, 2)]
    );
}

#[tokio::test]
async fn a_registry_that_is_too_busy_is_left_alone_for_as_long_as_it_asks() {
    let pen = Pen::new();
    let mut services = services(&Ledger::new(1_000));
    services.apply(vec![sourced(&[], None, vec![pen.source("one", "x")])]);
    let asked = Duration::from_secs(2);
    pen.step(Step::FailFor(asked));
    let begun = Instant::now();
    until(|| pen.runs() == 2).await;
    assert!(begun.elapsed() >= asked, "the first pause is shorter by itself");
}

#[tokio::test]
async fn when_a_registry_names_nobody_any_more_those_who_answer_serve_on() {
    let ((_listener, good), refusing, pen) = (inet().await, Refusing::new(), Pen::new());
    let bad = refusing.address();
    let mut services = services(&Ledger::new(1_000));
    services.apply(vec![sourced(&[], None, vec![pen.source("one", "x")])]);
    pen.list(&[&good, &bad]);
    until(|| addresses(&services).len() == 2).await;
    let backend = Arc::clone(&services.reader(SERVICE).unwrap().load().backends()[0]);

    pen.list(&[]);
    until(|| addresses(&services) == set_of([&good])).await;
    let orphans = services.overview().members(SERVICE).unwrap();
    assert!(orphans.iter().all(|member| member.address == good && member.orphan_until_ms.is_some()));
    pen.list(&[&good]);
    until(|| services.overview().members(SERVICE).unwrap()[0].orphan_until_ms.is_none()).await;
    let same = services.reader(SERVICE).unwrap().load().backends().iter().any(|it| it.is(&backend));
    assert!(same || *backend.address() == bad, "a backend that was doubted keeps its state");

    pen.list(&[]);
    until(|| services.overview().members(SERVICE).unwrap()[0].orphan_until_ms.is_some()).await;
    assert!(services.overview().accept_empty(SERVICE) && !services.overview().accept_empty("other"));
    until(|| addresses(&services).is_empty()).await;
}

#[tokio::test]
async fn a_reload_touches_only_the_sources_that_changed() {
    let ((_a, first), (_b, second), kept, changed) = (inet().await, inet().await, Pen::new(), Pen::new());
    let mut services = services(&Ledger::new(1_000));
    services.apply(vec![sourced(&[], None, vec![kept.source("kept", "x"), changed.source("changed", "x")])]);
    kept.list(&[&first]);
    changed.list(&[&second]);
    until(|| addresses(&services) == set_of([&first, &second])).await;

    let other = Pen::new();
    services.apply(vec![sourced(&[], None, vec![kept.source("kept", "x"), other.source("changed", "y")])]);
    until(|| other.runs() == 1).await;
    assert_eq!((kept.runs(), changed.runs()), (1, 1));
    assert_eq!(addresses(&services), set_of([&first, &second]), "the old answers stand until there are new ones");
    let third = "127.0.0.1:9".parse().unwrap();
    other.list(&[&third]);
    until(|| addresses(&services) == set_of([&first, &third])).await;

    services.apply(vec![sourced(&[], None, vec![kept.source("kept", "x")])]);
    assert_eq!(addresses(&services), set_of([&first]), "a source that is taken away takes its backends along");
    assert_eq!((kept.runs(), services.overview().sources().len()), (1, 1));
}

#[tokio::test]
async fn what_a_source_may_not_name_is_counted_and_not_taken() {
    let ((_a, here), pen) = (inet().await, Pen::new());
    let reach = Reach::Network { allowed: [].into(), own: [].into() };
    let mut services = services(&Ledger::new(1_000));
    services.apply(vec![sourced(&[], None, vec![SourceConfig { reach, ..pen.source("one", "x") }])]);
    let there: Address = "192.0.2.1:80".parse().unwrap();
    pen.list(&[&here, &there]);
    until(|| addresses(&services) == set_of([&there])).await;
    assert_eq!(report(&services).refused, [("loopback", 1)].into());
    let many: Vec<Address> = (1..=11).map(|n| format!("192.0.2.{n}:80").parse().unwrap()).collect();
    pen.list(&many.iter().collect::<Vec<_>>());
    until(|| report(&services).updates[2] == (Update::Refused, 1)).await;
    assert_eq!(addresses(&services), set_of([&there]));
}

#[tokio::test]
async fn a_start_without_the_registry_serves_what_was_there_before() {
    let dir = Scratch::new("state");
    let ((_listener, good), refusing, pen) = (inet().await, Refusing::new(), Pen::new());
    let bad = refusing.address();
    let mut before = services(&Ledger::new(1_000));
    before.keep_state(&dir.0);
    before.apply(vec![sourced(&[], None, vec![pen.source("one", "x")])]);
    pen.list(&[&good, &bad]);
    until(|| addresses(&before).len() == 2).await;
    before.save_state().await.unwrap();
    drop(before);

    let silent = Pen::new();
    let mut after = services(&Ledger::new(1_000));
    after.keep_state(&dir.0);
    after.apply(vec![sourced(&[], None, vec![silent.source("one", "x")])]);
    assert_eq!(addresses(&after), set_of([&good, &bad]), "at once, before any source has spoken");
    assert_eq!((report(&after).is_confirmed, report(&after).endpoints), (false, 2));
    silent.list(&[]);
    until(|| addresses(&after) == set_of([&good])).await;

    let elsewhere = Pen::new();
    let mut moved = services(&Ledger::new(1_000));
    moved.keep_state(&dir.0);
    moved.apply(vec![sourced(&[], None, vec![elsewhere.source("one", "another registry")])]);
    assert_eq!(addresses(&moved).len(), 2);
    elsewhere.list(&[&good]);
    until(|| addresses(&moved) == set_of([&good])).await;
    let members = moved.overview().members(SERVICE).unwrap();
    assert!(members.iter().all(|member| member.orphan_until_ms.is_none()), "nothing of another registry is defended");
}

#[tokio::test]
async fn sources_end_with_their_service() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let (before, pen) = (tasks(), Pen::new());
    let mut services = services(&Ledger::new(1_000));
    services.apply(vec![sourced(&[], None, vec![pen.source("one", "x")])]);
    until(|| pen.runs() == 1).await;
    services.apply(Vec::new());
    until(|| tasks() == before).await;
    assert!(services.overview().sources().is_empty());
}
