//! When a backend took how long: request/response turns, read off the bytes of one connection.
//!
//! ```text
//!            client bytes            server bytes: a sample
//!   idle ───────────────▶ awaiting ────────────────────────▶ idle
//!    │                     │    ▲
//!    │ server bytes        └────┘ more client bytes: still one turn, timed from the last of them
//!    ▼ before any of the client: a banner, sampled from the connect on
//! ```
//!
//! A turn is a client's bytes and the first byte of the answer. What follows of an answer is not timed: it depends on
//! the client's window as much as on the backend. A client that pipelines makes one turn of several requests. An
//! answer cannot come sooner than the network allows, nor a client's next request before it has the answer; where
//! either happens again and again, bytes flow both ways for reasons of their own (*streaming*), and their times mean
//! nothing. A second of silence ends that.
//!
//! Where this is biased: several requests multiplexed on one connection (HTTP/2) end their common turn with the first
//! answer of any, so the times are low and one connection counts as one turn in flight; a server that is slow to send
//! what it began is not seen; an event that a client waits for looks like work. Every bias is the same for all backends
//! of a service, and the choice depends on ratios.

/// The turn detector of one connection. Pure: times in microseconds come as arguments and must not go back.
///
/// *Cost*: no more than two branches where nothing begins or ends, as in the middle of a bulk transfer.
#[derive(Clone, Debug)]
pub struct Turns {
    /// When the connection to the backend was established, or the last client byte was forwarded.
    last_client_us: u64,
    /// First client byte of the turn.
    began_us: u64,
    last_server_us: u64,
    /// The network's share of a turn: nothing faster is an answer.
    base_us: u32,
    awaiting: bool,
    /// Whether the wait for an answer was given up, and none has come since.
    given_up: bool,
    streaming: bool,
    /// Alternations in a row that no cause explains.
    hasty: u8,
    /// Turns that ended, up to a few.
    ended: u8,
    /// Turns that belong to the opening of the connection.
    opening: u8,
}

/// What kind of turn a sample is of. First turns (a banner, a handshake) are other work than later ones; the pool keeps
/// an average of each and compares like with like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TurnClass {
    /// The opening of the connection.
    First,
    /// All turns after that.
    Later,
    /// An answer whose time says nothing.
    Untimed,
}

/// An answer: how long it took, network time included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Of which kind of turn.
    pub class: TurnClass,
    /// From the client's bytes to the first byte of the answer.
    pub took_us: u32,
}

impl Turns {
    /// Up to this base round trip no answer comes too soon to be believed.
    pub const BASE_IN_NOISE_US: u32 = 2 * BASE_NOISE_US as u32;

    /// The turns of a connection that was established at `now_us` with a backend whose base round trip is `base_us`
    /// (see [`Lease::base_us`](crate::Lease::base_us)). A flow of datagrams counts as established when its socket exists.
    pub fn new(now_us: u64, base_us: u32) -> Self {
        Self {
            last_client_us: now_us,
            began_us: 0,
            last_server_us: 0,
            base_us,
            awaiting: false,
            given_up: false,
            streaming: false,
            hasty: 0,
            ended: 0,
            opening: 1,
        }
    }

    /// The client's first byte is that of a TLS record: two turns, the hello and the finish, are its opening.
    pub fn opens_with_tls(&mut self) {
        self.opening = 2;
    }

    /// Bytes of the client went to the backend. Returns whether a turn began.
    #[inline]
    pub fn client_bytes(&mut self, now_us: u64) -> bool {
        let began = !self.awaiting && self.begins(now_us);
        self.last_client_us = now_us;
        began
    }

    /// Bytes of the backend came. Returns the answer if they end a turn.
    #[inline]
    pub fn server_bytes(&mut self, now_us: u64) -> Option<Sample> {
        let answer = match () {
            () if self.given_up => Some(self.came_late(now_us)),
            () if self.awaiting => Some(self.answered(now_us)),
            () => self.banner(now_us),
        };
        self.last_server_us = now_us;
        answer
    }

    /// The wait for an answer is given up, since datagrams get lost and some deserve none: what the client sends next
    /// begins a new turn. An answer that still comes is one, but whose it is and how long it took nobody knows.
    pub fn gave_up(&mut self) {
        self.given_up |= std::mem::take(&mut self.awaiting);
    }

    /// Whether client bytes wait for an answer.
    pub fn is_awaiting(&self) -> bool {
        self.awaiting
    }

    /// Whether bytes flow both ways without turns.
    pub fn is_streaming(&self) -> bool {
        self.streaming
    }

    fn begins(&mut self, now_us: u64) -> bool {
        let silent_us = now_us.saturating_sub(self.last_server_us.max(self.last_client_us));
        if self.streaming {
            if silent_us < STREAM_ENDS_US {
                return false;
            }
            (self.streaming, self.hasty) = (false, 0);
        }
        let causal = self.last_server_us == 0 || silent_us >= CLIENT_LEAST_US;
        self.hasty = if causal { self.hasty } else { self.hasty + 1 };
        (self.awaiting, self.began_us) = (true, now_us);
        true
    }

    fn answered(&mut self, now_us: u64) -> Sample {
        self.awaiting = false;
        let since_last = now_us.saturating_sub(self.last_client_us);
        let since_first = now_us.saturating_sub(self.began_us);
        // Too soon for the last bytes: it answers earlier ones of a pipeline.
        let took_us = if since_last < u64::from(self.base_us) { since_first } else { since_last };
        let causal = took_us > 0 && took_us + BASE_NOISE_US >= u64::from(self.base_us / 2);
        let was = self.hasty;
        self.hasty = if causal { was.saturating_sub(1) } else { was + 2 };
        self.streaming = self.hasty > HASTY_MOST;
        self.sample(if causal && !self.streaming { self.class() } else { TurnClass::Untimed }, took_us)
    }

    fn came_late(&mut self, now_us: u64) -> Sample {
        (self.awaiting, self.given_up) = (false, false);
        self.sample(TurnClass::Untimed, now_us.saturating_sub(self.last_client_us))
    }

    /// Only the first bytes of all are a banner.
    fn banner(&mut self, now_us: u64) -> Option<Sample> {
        if self.last_server_us != 0 || self.ended > 0 {
            return None;
        }
        let took_us = now_us.saturating_sub(self.last_client_us);
        let class = if took_us <= BANNER_MOST_US { TurnClass::First } else { TurnClass::Untimed };
        Some(self.sample(class, took_us))
    }

    fn class(&self) -> TurnClass {
        if self.ended < self.opening { TurnClass::First } else { TurnClass::Later }
    }

    fn sample(&mut self, class: TurnClass, took_us: u64) -> Sample {
        self.ended = self.ended.saturating_add(1);
        Sample { class, took_us: u32::try_from(took_us).unwrap_or(u32::MAX) }
    }
}

/// A client needs at least this long to see an answer and send what follows from it: two passes through a kernel.
const CLIENT_LEAST_US: u64 = 10;
/// What the scheduler of a busy machine adds to the base round trip, which comes from few connects: an answer over
/// loopback or within a rack may well be faster than the connect was.
const BASE_NOISE_US: u64 = 500;
/// Unexplained alternations, each weighed one for a hasty client and two for an impossible answer, that make a stream.
const HASTY_MOST: u8 = 8;
/// Silence after which a stream is over.
const STREAM_ENDS_US: u64 = 1_000_000;
/// A first byte later than this is an event that the client waited for, not a greeting.
const BANNER_MOST_US: u64 = 3_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn first(took_us: u32) -> Option<Sample> {
        Some(Sample { class: TurnClass::First, took_us })
    }

    fn later(took_us: u32) -> Option<Sample> {
        Some(Sample { class: TurnClass::Later, took_us })
    }

    #[test]
    fn a_turn_is_timed_from_the_clients_last_bytes_to_the_first_of_the_answer() {
        let mut turns = Turns::new(1_000, 100);
        assert!(turns.client_bytes(2_000));
        assert!(!turns.client_bytes(5_000), "an upload in two parts is one turn");
        assert_eq!(turns.server_bytes(7_000), first(2_000));
        assert_eq!(turns.server_bytes(9_000), None, "the rest of an answer is not timed");
        assert!(turns.client_bytes(20_000));
        assert_eq!(turns.server_bytes(21_000), later(1_000));
    }

    #[test]
    fn a_banner_is_timed_from_the_connect_and_only_once() {
        let mut turns = Turns::new(1_000, 100);
        assert_eq!(turns.server_bytes(4_000), first(3_000));
        assert_eq!(turns.server_bytes(4_500), None);
        assert!(turns.client_bytes(9_000));
        assert_eq!(turns.server_bytes(9_800), later(800));
        let mut subscriber = Turns::new(1_000, 100);
        let event = subscriber.server_bytes(60_000_000).unwrap();
        assert_eq!(event.class, TurnClass::Untimed, "an event after a minute is no greeting");
    }

    #[test]
    fn a_pipeline_is_one_turn_and_is_not_timed_from_a_request_that_it_cannot_answer_yet() {
        let mut turns = Turns::new(0, 1_000);
        assert!(turns.client_bytes(10_000));
        assert!(!turns.client_bytes(12_000));
        assert!(!turns.client_bytes(14_900));
        assert_eq!(turns.server_bytes(15_000), first(5_000));
    }

    #[test]
    fn after_a_wait_that_was_given_up_the_next_bytes_begin_a_turn_and_a_late_answer_is_not_timed() {
        let mut turns = Turns::new(0, 0);
        assert!(turns.client_bytes(1_000));
        turns.gave_up();
        assert!(!turns.is_awaiting());
        assert!(turns.client_bytes(6_000_000), "the client asks again");
        let late = turns.server_bytes(6_000_100).unwrap();
        assert_eq!(late.class, TurnClass::Untimed, "it may answer the first question or the second");
        assert!(!turns.is_awaiting());
        assert!(turns.client_bytes(7_000_000));
        assert_eq!(turns.server_bytes(7_005_000), later(5_000));
        turns.gave_up();
        assert_eq!(turns.server_bytes(7_006_000), None, "nothing was waited for, and nothing given up");
    }

    #[test]
    fn a_flow_that_knows_no_distance_takes_every_answer_for_one() {
        let mut turns = Turns::new(0, 0);
        for (n, took_us) in [80_000, 40, 30, 200_000, 1, 30, 30, 30, 30].into_iter().enumerate() {
            let asked_us = (n as u64 + 1) * 1_000_000;
            turns.client_bytes(asked_us);
            assert_ne!(turns.server_bytes(asked_us + took_us).unwrap().class, TurnClass::Untimed, "answer {n}");
        }
    }

    #[test]
    fn tls_opens_with_two_turns() {
        let mut turns = Turns::new(0, 10);
        turns.opens_with_tls();
        let mut classes = Vec::new();
        for n in 1..=3u64 {
            turns.client_bytes(n * 10_000);
            classes.push(turns.server_bytes(n * 10_000 + 500).unwrap().class);
        }
        assert_eq!(classes, [TurnClass::First, TurnClass::First, TurnClass::Later]);
    }

    #[test]
    fn a_closed_loop_without_think_time_goes_on_being_sampled() {
        let mut turns = Turns::new(0, 40);
        for n in 1..1_000u64 {
            assert!(turns.client_bytes(n * 100));
            assert_ne!(turns.server_bytes(n * 100 + 60).unwrap().class, TurnClass::Untimed, "turn {n}");
        }
    }

    #[test]
    fn answers_nearby_may_be_faster_than_a_connect_on_a_busy_machine_was() {
        let mut turns = Turns::new(0, 900);
        for n in 1..100u64 {
            assert!(turns.client_bytes(n * 1_000));
            assert_ne!(turns.server_bytes(n * 1_000 + 50).unwrap().class, TurnClass::Untimed, "turn {n}");
        }
        let mut far = Turns::new(0, 20_000);
        let timed = (1..100u64).filter(|n| {
            far.client_bytes(n * 1_000);
            far.server_bytes(n * 1_000 + 50).is_some_and(|it| it.class != TurnClass::Untimed)
        });
        assert_eq!(timed.count(), 0, "nothing answers from far away in no time");
    }

    #[test]
    fn bytes_both_ways_at_once_are_a_stream_until_they_pause() {
        let mut turns = Turns::new(0, 500);
        let mut now_us = 1_000;
        let mut timed = 0;
        for _ in 0..100 {
            now_us += 300;
            turns.client_bytes(now_us);
            // The same wake-up moved both directions.
            timed += u32::from(turns.server_bytes(now_us).is_some_and(|it| it.class != TurnClass::Untimed));
        }
        assert!(turns.is_streaming());
        assert_eq!(timed, 0, "an answer in no time is none");
        assert!(!turns.client_bytes(now_us + 300), "a stream has no turns");
        assert!(turns.client_bytes(now_us + 2_000_000), "after a pause there are turns again");
        assert_eq!(turns.server_bytes(now_us + 2_001_000), later(1_000));
    }

    #[test]
    fn no_answer_is_too_soon_for_a_base_within_the_noise() {
        // given
        let mut turns = Turns::new(1_000, Turns::BASE_IN_NOISE_US);
        for n in 1..=100 {
            // when
            turns.client_bytes(n * 2_000);
            turns.server_bytes(n * 2_000 + 1);
        }

        // then
        assert!(!turns.is_streaming());
    }
}
