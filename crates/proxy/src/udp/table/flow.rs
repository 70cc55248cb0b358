//! One flow: its name and what is counted of it.

/// A flow's name in events and deadlines: its slot, and a generation that no earlier flow of the slot had. So an
/// event that is late names no flow, never another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FlowId(u64);

impl FlowId {
    /// *Shape*: the generation, which is never 0, above the slot's 32 bits. So no flow's bits are below 2^32.
    pub(super) fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    /// Which of the table's slots the flow is in: below the most flows that ever were at once, and taken by another
    /// after the flow.
    pub(crate) fn slot(self) -> usize {
        self.slot_bits() as usize
    }

    /// The name as a word. No flow's is below 2^32, so such words are free for events of other kinds.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// The name that `bits` gave. Of any other word the table says that there is no such flow.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn slot_bits(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What is known of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow<K> {
    /// Whose it is.
    pub(crate) key: K,
    /// When it was opened.
    pub(crate) began_ms: u64,
    /// When the client's latest datagram came.
    pub(crate) last_request_ms: u64,
    /// When the latest reply came that was not over budget; `began_ms` while `replies` is 0.
    pub(crate) last_reply_ms: u64,
    /// Since when the client waits: when the first datagram came after the latest reply. None when there is none.
    pub(crate) waiting_since_ms: Option<u64>,
    /// Datagrams of the client.
    pub(crate) requests: u64,
    /// Replies, without those that were over budget.
    pub(crate) replies: u64,
    /// Bytes of `requests`.
    pub(crate) request_bytes: u64,
    /// Bytes of `replies`.
    pub(crate) reply_bytes: u64,
    /// How often the client went on after a reply, as far as [`PROOF_TURNS`] needs it.
    turns: u8,
    /// Whether a reply was delivered since the client's latest datagram.
    replied: bool,
    /// Whether the source was seen to be proven, so that it need not be looked up again.
    pub(super) proven: bool,
    /// Whether it is found by its key: not when it is used up.
    pub(super) indexed: bool,
}

/// How often a client must have gone on after a reply within one flow, and how old the flow must then be, until its
/// source counts as proven.
///
/// Sixteen turns and a hundredth of a second, because a forger who sends a burst at random meets a reply between two of his
/// datagrams now and then, but hardly sixteen times over, while a call, a game or a QUIC connection has it as soon as it has
/// begun: a download that may not be slowed for longer. It is evidence, not proof: whoever keeps sending slowly with one
/// forged address while the backend answers looks the same. That costs him a flow, seventeen datagrams and their time for each
/// address (or /64 of IPv6), within the rates of the unproven; from then on the backend's answers go to that address
/// unbounded by rate, as they would without us, and what remains is the bound on flows. Protocols that validate addresses
/// themselves (QUIC's Retry) do it better.
pub(super) const PROOF_TURNS: u8 = 16;
/// See [`PROOF_TURNS`].
pub(super) const PROOF_MS: u64 = 10;

impl<K> Flow<K> {
    pub(super) fn new(key: K, now_ms: u64) -> Self {
        Self {
            key,
            began_ms: now_ms,
            last_request_ms: now_ms,
            last_reply_ms: now_ms,
            waiting_since_ms: None,
            requests: 0,
            replies: 0,
            request_bytes: 0,
            reply_bytes: 0,
            turns: 0,
            replied: false,
            proven: false,
            indexed: true,
        }
    }

    pub(super) fn request(&mut self, datagrams: u32, bytes: u64, now_ms: u64) {
        self.turns = self.turns.saturating_add(self.replied.into());
        self.replied = false;
        self.last_request_ms = now_ms;
        self.waiting_since_ms.get_or_insert(now_ms);
        self.requests = self.requests.saturating_add(datagrams.into());
        self.request_bytes = self.request_bytes.saturating_add(bytes);
    }

    pub(super) fn reply(&mut self, datagrams: u32, bytes: u64, now_ms: u64) {
        self.replied = true;
        self.last_reply_ms = now_ms;
        self.waiting_since_ms = None;
        self.replies = self.replies.saturating_add(datagrams.into());
        self.reply_bytes = self.reply_bytes.saturating_add(bytes);
    }

    /// When the latest datagram came, in either direction.
    pub(crate) fn last_ms(&self) -> u64 {
        self.last_request_ms.max(self.last_reply_ms)
    }

    /// Whether no reply was delivered to the client so far.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.replies == 0
    }

    /// Whether the client has shown that it receives replies, as far as one can see.
    pub(super) fn is_proof(&self, now_ms: u64) -> bool {
        self.turns >= PROOF_TURNS && now_ms.saturating_sub(self.began_ms) >= PROOF_MS
    }
}
