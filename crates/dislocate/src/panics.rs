//! Saying in the log when a zone goes into panic, and when that is over.
//!
//! `balance` decides it and logs nothing. Whoever has pages only for metrics sees `dislocate_panic`; whoever reads the
//! log afterwards should find out too that traffic went to backends that were believed to be broken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use balance::Zone;

use crate::state::{Running, State};

/// A zone of a service.
type Place = (String, Zone);

/// Looks every second and logs what has changed, for ever.
pub async fn tell(state: Arc<State>) {
    let mut known = BTreeSet::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = in_panic(&state.running.load(), state.now_ms());
        for (service, zone) in now.difference(&known) {
            tracing::warn!(
                service,
                %zone,
                "panic: too few backends of the zone are well, their health is ignored unless another zone is well"
            );
        }
        for (service, zone) in known.difference(&now) {
            tracing::info!(service, %zone, "the panic is over");
        }
        known = now;
    }
}

fn in_panic(running: &Running, now_ms: u64) -> BTreeSet<Place> {
    let places = running.services.iter().flat_map(|(service, reader)| {
        let zones = reader.load().panics(now_ms).into_iter().filter(|&(_, panicking)| panicking);
        zones.map(|(zone, _)| (service.clone(), zone)).collect::<Vec<_>>()
    });
    places.collect()
}

/// A panic shorter than this hardly moved anything, and the metrics count its picks.
const LOOK: Duration = Duration::from_secs(1);
