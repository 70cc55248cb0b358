//! What others may see of all services, and the little that they may do.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use crate::service::Service;
use crate::snapshot::Remembered;
use crate::{MemberReport, SourceReport};

/// A handle for metrics and the admin API, on any thread. It outlives reloads.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// In the order of names.
    services: Arc<Mutex<Vec<Arc<Service>>>>,
}

impl Overview {
    /// All sources, by service, in the order of precedence.
    pub fn sources(&self) -> Vec<SourceReport> {
        self.all().iter().flat_map(|service| service.look(|desk| desk.sources())).collect()
    }

    /// Who belongs to a service and why, in the order of addresses; nothing for a service that is not there.
    pub fn members(&self, service: &str) -> Option<Vec<MemberReport>> {
        self.find(service).map(|service| service.look(|desk| desk.members()))
    }

    /// How many backends of a service no source reports any more; nothing for a service that is not there.
    pub fn orphans(&self, service: &str) -> Option<usize> {
        self.find(service).map(|service| service.look(|desk| desk.orphans()))
    }

    /// Believes the sources of a service: backends that none of them reports leave, even all of them. Returns whether
    /// there is such a service.
    pub fn accept_empty(&self, service: &str) -> bool {
        let Some(service) = self.find(service) else { return false };
        let now_ms = service.now_ms();
        service.with_desk(|desk| desk.accept_empty(now_ms));
        tracing::info!(service = &**service.name(), "what its sources do not report leaves, as somebody asked");
        true
    }

    pub(crate) fn replace(&self, services: Vec<Arc<Service>>) {
        *self.lock() = services;
    }

    /// What to remember of all services.
    pub(crate) fn save(&self) -> Remembered {
        let mut remembered = Remembered::default();
        self.all().iter().for_each(|service| service.look(|desk| desk.save(&mut remembered)));
        remembered
    }

    /// A number that is another one when there is something else to remember.
    pub(crate) fn generation(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for service in self.all() {
            (service.name(), service.look(|desk| desk.generation())).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn find(&self, name: &str) -> Option<Arc<Service>> {
        self.all().into_iter().find(|service| **service.name() == *name)
    }

    fn all(&self) -> Vec<Arc<Service>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Service>>> {
        // Nothing inside can panic half-way.
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
