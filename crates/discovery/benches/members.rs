//! What a hundred thousand endpoints of one source cost: time of a processor from the source's word to the live set, and
//! memory. Time on the clock is printed beside it; the two differ where the machine has other things to do.
//!
//! ```text
//! cargo bench -p dislocate-discovery --bench members
//! ```

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balance::{Epoch, Ledger, Reader, Reported, Settings};
use discovery::{Event, Found, Membership, Reach, ServiceConfig, Services, Sink, Source, SourceConfig, SourceError};
use tokio::sync::{Mutex, mpsc};

const COUNT: u32 = 100_000;

/// Says what it is told to say.
struct Told(Mutex<mpsc::Receiver<Event>>);

impl Source for Told {
    fn kind(&self) -> &'static str {
        "told"
    }

    fn run<'a>(&'a self, sink: &'a Sink) -> Pin<Box<dyn Future<Output = SourceError> + Send + 'a>> {
        Box::pin(async move {
            let mut events = self.0.lock().await;
            while let Some(event) = events.recv().await {
                if let Err(closed) = sink.send(event).await {
                    return closed.into();
                }
            }
            std::future::pending().await
        })
    }
}

fn found(n: u32, weight: u32) -> Found {
    let address = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + n), 80));
    let id = address.to_string().into();
    Found { id, address: address.into(), weight, zone: None, priority: 0, reported: Reported::Ready }
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    pages.split(' ').nth(1).and_then(|it| it.parse::<u64>().ok()).expect("the second field is a number") * 4_096
}

/// Time that this thread has had a processor for.
fn on_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with schedstats");
    Duration::from_nanos(stat.split(' ').next().and_then(|it| it.parse().ok()).expect("the first field is a number"))
}

/// What the backends and their set take by themselves, without all that discovery knows of them.
fn set_bytes(count: u32) -> u64 {
    let endpoint = |n| balance::Endpoint {
        address: found(n, 1).address,
        weight: 1,
        zone: balance::Zone::default(),
        priority: 0,
        facts: balance::Facts::default(),
        server_id: None,
    };
    let before = resident_bytes();
    let set = balance::BackendSet::new(Settings::new("web"), (0..count).map(endpoint).collect());
    let bytes = resident_bytes().saturating_sub(before) / u64::from(count);
    assert_eq!(set.backends().len(), count as usize);
    // What is freed would serve the next measurement.
    std::mem::forget(set);
    bytes
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

fn service(count: u32) -> (ServiceConfig, mpsc::Sender<Event>) {
    let (events, receiver) = mpsc::channel(1);
    let source: Arc<dyn Source> = Arc::new(Told(Mutex::new(receiver)));
    let source = SourceConfig {
        name: "told".into(),
        identity: "told".into(),
        source,
        reach: Reach::Any,
        max_endpoints: count as usize,
    };
    let membership = Membership { sources: vec![source], ..Membership::default() };
    (ServiceConfig { settings: Settings::new("web"), endpoints: Vec::new(), health: None, membership }, events)
}

async fn list(events: &mpsc::Sender<Event>, count: u32) {
    let found = (0..count).map(|n| found(n, 1)).collect();
    for event in [Event::Begin, Event::Upsert(found), Event::End] {
        events.send(event).await.expect("the source listens");
    }
}

fn len(reader: &Reader) -> usize {
    reader.load().backends().len()
}

async fn measure(count: u32) {
    let mut services = Services::new(Epoch::starting(Instant::now()), Ledger::new(1_000), 1);
    let (config, events) = service(count);
    services.apply(vec![config]);
    let reader = services.reader("web").expect("it was applied");
    let of_set = set_bytes(count);
    let (before, begun, cpu) = (resident_bytes(), Instant::now(), on_cpu());
    list(&events, count).await;
    until(|| len(&reader) == count as usize).await;
    let (took, cpu) = (begun.elapsed(), on_cpu() - cpu);
    let bytes = resident_bytes().saturating_sub(before) / u64::from(count);
    println!("{count} endpoints: {cpu:.1?} ({took:.1?}) from the first word to the live set");
    println!("{count} endpoints: {bytes} B resident each, of which the set and its backends take {of_set}");

    let mut changes = Vec::new();
    for weight in 2..9 {
        tokio::time::sleep(Duration::from_millis(2_200)).await;
        let (begun, cpu) = (Instant::now(), on_cpu());
        events.send(Event::Upsert(vec![found(7, weight)])).await.expect("the source listens");
        until(|| reader.load().backends()[7].endpoint().weight == weight).await;
        changes.push((on_cpu() - cpu, begun.elapsed()));
    }
    changes.sort();
    let (cpu, took) = changes[changes.len() / 2];
    println!("{count} endpoints: {cpu:.1?} ({took:.1?}) for one change, the median of {}", changes.len());
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for count in [100, COUNT] {
        measure(count).await;
    }
}
