//! Where flows are kept: slots that are used again under another generation, and the list of the unanswered among
//! them.

use super::flow::{Flow, FlowId};

/// *Shape*: a vector of slots. The free ones are a list, the latest freed first; those whose flow is unanswered are
/// another, the oldest flow first. Both run through the slots themselves.
#[derive(Debug)]
pub(super) struct Slots<K> {
    slots: Vec<Slot<K>>,
    free: u32,
    oldest: u32,
    newest: u32,
    live: usize,
    overdue: usize,
}

#[derive(Debug)]
pub(super) struct Slot<K> {
    /// Of the flow in it, or of the latest that was.
    generation: u32,
    /// The next younger unanswered flow; of a free slot the next free one.
    next: u32,
    /// The next older unanswered flow.
    previous: u32,
    overdue: bool,
    flow: Option<Flow<K>>,
}

/// The end of a list.
const NONE: u32 = u32::MAX;

impl<K> Slots<K> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: NONE, oldest: NONE, newest: NONE, live: 0, overdue: 0 }
    }

    /// Puts in a flow that is unanswered.
    pub(super) fn insert(&mut self, flow: Flow<K>) -> FlowId {
        let slot = self.vacant();
        let newest = std::mem::replace(&mut self.newest, slot);
        match self.slots.get_mut(newest as usize) {
            Some(older) => older.next = slot,
            None => self.oldest = slot,
        }
        let place = &mut self.slots[slot as usize];
        place.generation += 1;
        place.previous = newest;
        place.next = NONE;
        place.flow = Some(flow);
        self.live += 1;
        FlowId::new(slot, place.generation)
    }

    /// A slot without a flow, on no list.
    fn vacant(&mut self) -> u32 {
        if let Some(place) = self.slots.get(self.free as usize) {
            return std::mem::replace(&mut self.free, place.next);
        }
        let slot = u32::try_from(self.slots.len()).expect("flows are fewer than their sockets could be numbered");
        self.slots.push(Slot { generation: 0, next: NONE, previous: NONE, overdue: false, flow: None });
        slot
    }

    pub(super) fn get(&self, id: FlowId) -> Option<&Flow<K>> {
        let slot = self.slots.get(id.slot()).filter(|slot| slot.generation == id.generation())?;
        slot.flow.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow<K>> {
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation())?;
        slot.flow.as_mut()
    }

    /// The flow in a slot.
    pub(super) fn at(&self, slot: u32) -> Option<(FlowId, &Flow<K>)> {
        let place = self.slots.get(slot as usize)?;
        Some((FlowId::new(slot, place.generation), place.flow.as_ref()?))
    }

    /// The flow in a slot, to be changed.
    pub(super) fn at_mut(&mut self, slot: u32) -> Option<(FlowId, &mut Flow<K>)> {
        let place = self.slots.get_mut(slot as usize)?;
        Some((FlowId::new(slot, place.generation), place.flow.as_mut()?))
    }

    /// Takes a flow out. Its slot is free for another, unless its generations are used up.
    pub(super) fn remove(&mut self, id: FlowId) -> Option<Flow<K>> {
        if self.get(id)?.is_unanswered() {
            self.unlink(id.slot_bits());
        }
        self.set_overdue(id.slot_bits(), false);
        let place = &mut self.slots[id.slot()];
        if place.generation < u32::MAX {
            place.next = std::mem::replace(&mut self.free, id.slot_bits());
        }
        self.live -= 1;
        place.flow.take()
    }

    /// Takes a flow, which had its first reply just now, from the list of the unanswered.
    pub(super) fn answered(&mut self, id: FlowId) {
        self.unlink(id.slot_bits());
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { previous, next, .. } = self.slots[slot as usize];
        match self.slots.get_mut(previous as usize) {
            Some(older) => older.next = next,
            None => self.oldest = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(younger) => younger.previous = previous,
            None => self.newest = previous,
        }
    }

    /// The unanswered flow that began first.
    pub(super) fn oldest(&self) -> Option<FlowId> {
        self.at(self.oldest).map(|(id, _)| id)
    }

    /// Marks the flow in a slot as one whose time is over, or as one whose is not.
    pub(super) fn set_overdue(&mut self, slot: u32, overdue: bool) {
        let Some(place) = self.slots.get_mut(slot as usize) else { return };
        let before = std::mem::replace(&mut place.overdue, overdue);
        self.overdue = self.overdue + usize::from(overdue) - usize::from(before);
    }

    /// How many are marked as overdue.
    pub(super) fn overdue(&self) -> usize {
        self.overdue
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// How many slots there are, with and without a flow.
    pub(super) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowId, &Flow<K>)> {
        (0..self.slots()).filter_map(|slot| self.at(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_whose_generations_are_used_up_is_not_used_again() {
        let mut slots = Slots::new();
        let first = slots.insert(Flow::new((), 0));
        slots.remove(first).unwrap();
        slots.slots[0].generation = u32::MAX - 1;

        let last = slots.insert(Flow::new((), 0));
        assert_eq!((last.slot(), last.generation()), (0, u32::MAX));
        slots.remove(last).unwrap();
        let other = slots.insert(Flow::new((), 0));
        assert_eq!(other.slot(), 1, "a name would be given twice");
        assert_eq!((slots.len(), slots.get(last)), (1, None));
    }

    #[test]
    fn a_flow_takes_no_more_than_is_accounted_for() {
        type Key = (std::net::SocketAddr, std::net::IpAddr, [u8; 3]);
        assert_eq!(size_of::<Key>(), 52);
        // Beside the slot a link of the wheel and, at its emptiest after it grew, 16/7 buckets of five bytes of the
        // index.
        assert!(size_of::<Slot<Key>>() + 4 + 12 <= 160, "a flow takes {} bytes", size_of::<Slot<Key>>());
    }
}
