//! Every default and every bound, each with where its number comes from.

use std::time::Duration;

/// A value's default, and the least and the most that the configuration takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded<T> {
    /// What holds where the key is left out.
    pub default: T,
    /// The least that is taken.
    pub min: T,
    /// The most that is taken.
    pub max: T,
}

/// Shorthand for the table below.
const fn bounded<T: Copy>(default: T, min: T, max: T) -> Bounded<T> {
    Bounded { default, min, max }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The finest step of a session's clock; no timeout shorter than it could be kept.
const TICK: Duration = Duration::from_millis(1);

/// The longest timeout. A year is "never" for a session, and keeps every sum of times far from overflow.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Silence after which a session is ended: half of the two hours after which Linux would send its first keepalive, so
/// that a database's idle pool survives and a forgotten session does not live for ever.
pub const IDLE_TIMEOUT: Bounded<Duration> = bounded(HOUR, TICK, YEAR);

/// Silence after which a flow of datagrams is ended: what Linux's connection tracking gives a flow without an answer
/// (`nf_conntrack_udp_timeout`). Nothing tells that a client has gone, and each flow holds a descriptor until then.
pub const UDP_IDLE_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(30), TICK, YEAR);

/// Datagrams of the client in one flow; 0, the default, is no limit, since only its operator knows the protocol.
pub const REQUESTS: Bounded<u32> = bounded(0, 0, 1_000_000_000);

/// Replies to each of them; 0, the default, is no limit, for the same reason.
pub const REPLIES: Bounded<u32> = bounded(0, 0, 1_000_000_000);

/// Datagrams a second of a source that has not proven itself: a resolver behind which a town sits asks that much, and a
/// forged address costs a backend no more.
pub const UNPROVEN_DATAGRAMS: Bounded<u32> = bounded(10_000, 0, 1_000_000_000);

/// Bytes a second of replies to such a source: 10 000 answers of DNS of the usual 400 bytes. Who forges an address makes
/// us send no more than this to its owner.
pub const UNPROVEN_REPLY_BYTES: Bounded<u64> = bounded(4 << 20, 0, 1 << 40);

/// Silence after one side has finished: long enough for an answer to a request that ended with FIN, short enough that
/// a side which never answers does not hold two sockets for an hour.
pub const HALF_CLOSE_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(30), TICK, YEAR);

/// Idle time before TCP keepalive probes: below the 350 seconds after which common cloud NATs forget a flow. The upper
/// bound is the kernel's own (`MAX_TCP_KEEPIDLE`), the lower one its unit.
pub const KEEPALIVE: Bounded<Duration> = bounded(Duration::from_secs(60), SECOND, Duration::from_secs(32_767));

/// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`): a dead peer is noticed in seconds and not in the
/// 15 minutes of Linux's retransmissions. The kernel keeps milliseconds in an `int`, hence 24 days.
pub const USER_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(30), TICK, Duration::from_secs(24 * 86_400));

/// One try to connect: room for two lost SYNs (retransmitted after 1 and 3 seconds, RFC 6298), since a healthy backend
/// answers within a round trip.
pub const CONNECT_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(3), TICK, YEAR);

/// Other backends tried after the first: two failures in a row are bad luck, three are an outage, which more tries
/// would only make worse.
pub const RETRIES: Bounded<u32> = bounded(2, 0, 10);

/// Sessions of one listener: 10 000 sessions are 20 000 descriptors, which the usual hard limit of a service allows
/// many times over. The upper bound keeps every sum of descriptors within 32 bits.
pub const MAX_CONNECTIONS: Bounded<u32> = bounded(10_000, 1, 100_000_000);

/// Sessions of one source address; 0, the default, is no limit, since clients behind one NAT share an address.
pub const MAX_CONNECTIONS_PER_SOURCE: Bounded<u32> = bounded(0, 0, 100_000_000);

/// Sessions of the process; 0, the default, is what the limit on descriptors allows.
pub const NODE_MAX_CONNECTIONS: Bounded<u32> = bounded(0, 0, 100_000_000);

/// Threads of the data plane; 0, the default, is one a core. The bound is far above any machine's cores.
pub const WORKERS: Bounded<u32> = bounded(0, 0, 1024);

/// Patience of a drain: the time that Kubernetes gives a pod to end by default.
pub const DRAIN_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(30), Duration::ZERO, YEAR);

/// How long a datagram may wait for its reply before the backend is blamed: less than the 5 seconds after which a resolver
/// of glibc asks again, so that the next try goes elsewhere.
pub const REPLY_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(2), TICK, HOUR);

/// The numbers that QUIC-LB has for configurations; 7 is for connection IDs that no load balancer reads
/// (draft-ietf-quic-load-balancers section 3).
pub const QUIC_LB_CONFIG_ID: (u8, u8) = (0, 6);

/// Bytes of a server ID (the same, section 4).
pub const SERVER_ID_LENGTH: (u8, u8) = (1, 15);

/// Bytes of a nonce (the same).
pub const NONCE_LENGTH: (u8, u8) = (4, 18);

/// The most bytes of a server ID and a nonce together: a connection ID of QUIC has 20, of which the first is taken.
pub const SERVER_ID_AND_NONCE: u8 = 19;

/// One QUIC-LB configuration for each number.
pub const MAX_QUIC_LB: u32 = 7;

/// Percent of a zone's backends below which health is ignored. Half of them failing at once is more often a fault of
/// the checks than of the backends.
pub const PANIC_THRESHOLD: Bounded<u8> = bounded(50, 0, 100);

/// How much sooner another zone must answer, beside 10 %, before a session leaves home: what a busy machine's scheduler
/// may add or take by chance.
pub const ZONE_MARGIN: Bounded<Duration> = bounded(TICK, Duration::ZERO, HOUR);

/// Sessions of one backend; 0, the default, is no limit, since only its operator knows what it can take.
pub const MAX_CONNECTIONS_PER_BACKEND: Bounded<u32> = bounded(0, 0, 100_000_000);

/// Patience of a session while all backends are full: what a person waits for a page before trying again.
pub const QUEUE_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(5), Duration::ZERO, YEAR);

/// Sessions of a service that may wait at once. Each holds a descriptor; a longer line than backends can serve within
/// the patience only makes more clients wait in vain.
pub const QUEUE_LENGTH: Bounded<u32> = bounded(1_024, 0, 1_000_000);

/// A backend's weight; the bound leaves room for every sum of weights in 64 bits.
pub const WEIGHT: Bounded<u32> = bounded(1, 0, 65_535);

/// Order of preference among backends: 0 is used while it can be, 1 (`backup = true`) when no 0 can.
pub const PRIORITY: Bounded<u8> = bounded(0, 0, 127);

/// Time between two checks of one backend: a failure is seen within `fall` times this, at a load of one connection
/// every five seconds a backend. The lower bound keeps checks from becoming a flood.
pub const HEALTH_INTERVAL: Bounded<Duration> = bounded(Duration::from_secs(5), Duration::from_millis(10), YEAR);

/// Patience of one check: several times the round trip around the globe. Never more than the interval.
pub const HEALTH_TIMEOUT: Bounded<Duration> = bounded(SECOND, TICK, YEAR);

/// Good checks in a row that bring a backend back: two, so that one lucky answer of a failing backend is not enough.
pub const HEALTH_RISE: Bounded<u32> = bounded(2, 1, 100);

/// Bad checks in a row that take a backend out: three, so that one lost packet and its retry are not an outage.
pub const HEALTH_FALL: Bounded<u32> = bounded(3, 1, 100);

/// HTTP statuses that count as good where `expect` is left out: success and redirects, which only a working server
/// sends.
pub const HEALTH_STATUSES: (u16, u16) = (200, 399);

/// Sources of one service: more than there are kinds of registry, and each is a task and a connection.
pub const MAX_SOURCES: u32 = 16;

/// Endpoints of one source; a longer list is refused as a whole. What sources read at most.
pub const SOURCE_ENDPOINTS: Bounded<u32> = bounded(100_000, 1, 100_000);

/// How long a backend serves on that no source names any more, while it answers: long enough for somebody to look at a
/// registry that lies, and for one that restarts to be filled again.
pub const ORPHAN_TTL: Bounded<Duration> = bounded(Duration::from_secs(600), Duration::ZERO, YEAR);

/// Time between two looks at a page: quick enough for a deployment to be followed.
pub const HTTP_INTERVAL: Bounded<Duration> = bounded(Duration::from_secs(10), Duration::from_millis(100), DAY);

/// The same of a file, where nothing was noticed: as often as the kubelet renews mounted ConfigMaps.
pub const FILE_INTERVAL: Bounded<Duration> = bounded(Duration::from_secs(30), Duration::from_millis(100), DAY);

/// Patience with a DNS server: time for a resolver to ask others in turn.
pub const DNS_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(2), SOURCE_TIMEOUT_MIN, HOUR);

/// Patience with a page: one that takes longer will be late again next time.
pub const HTTP_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(5), SOURCE_TIMEOUT_MIN, HOUR);

/// Patience with Consul: other data centres answer within a second, and servers in trouble after ten.
pub const CONSUL_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(10), SOURCE_TIMEOUT_MIN, HOUR);

/// Patience with etcd, which gives up itself after five seconds.
pub const ETCD_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(6), SOURCE_TIMEOUT_MIN, HOUR);

/// Patience with an API server, which answers within a second, and after ten when it is in trouble.
pub const KUBERNETES_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(10), SOURCE_TIMEOUT_MIN, HOUR);

/// Patience with a control plane, as long as Envoy's own with a first answer.
pub const XDS_TIMEOUT: Bounded<Duration> = bounded(Duration::from_secs(15), SOURCE_TIMEOUT_MIN, HOUR);

const SOURCE_TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// The least time between two resolutions: records with a time of 0 are asked for once a second.
pub const TTL_MIN: Bounded<Duration> = bounded(SECOND, Duration::from_millis(100), DAY);

/// The longest: a record that was given a day must not hold a dead address for a day.
pub const TTL_MAX: Bounded<Duration> = bounded(Duration::from_secs(300), Duration::from_millis(100), DAY);

const DAY: Duration = Duration::from_secs(86_400);

/// The port of DNS servers that are named without one.
pub const DNS_PORT: u16 = 53;

/// The most DNS servers, tags, data centres or members of a cluster that a source names; each of the first and the last
/// may take a timeout in turn.
pub const MAX_SOURCE_WORDS: u32 = 32;

/// The longest text of a source that goes into a question.
pub const MAX_SOURCE_TEXT: u32 = 1024;

/// Where the admin API listens: loopback, so that nobody else reaches it until told so.
pub const ADMIN_LISTEN: &str = "127.0.0.1:9901";

/// Where `run` and `check` look for the configuration. One place only: a file that happens to lie in the current
/// directory may name commands to run.
pub const FILE: &str = "/etc/dislocate/dislocate.toml";

/// The largest file that is read: room for 50 000 backends, while the worst of texts that large (a list of millions of
/// numbers) still costs a running process no more than a few hundred megabytes for a moment.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// The most listeners of one file.
pub const MAX_LISTENERS: u32 = 1024;

/// The most ports of one listener, ranges expanded. Each is one socket on every worker.
pub const MAX_PORTS_PER_LISTENER: usize = 1024;

/// The most addresses of all listeners together, for the same reason.
pub const MAX_BINDS: usize = 4096;

/// The most services of one file.
pub const MAX_SERVICES: u32 = 4096;

/// The most backends of one service; a pick may look at each of them.
pub const MAX_BACKENDS: u32 = 4096;

/// The most words of a check's command.
pub const MAX_COMMAND_WORDS: u32 = 64;

/// The most statuses and ranges in `expect`.
pub const MAX_STATUSES: u32 = 32;

/// The most networks in one list: each datagram of an unknown source is compared with all of them.
pub const MAX_NETWORKS: u32 = 256;

/// The most bytes that a check by datagrams sends or expects: such datagrams pass every network whole.
pub const MAX_OCTETS: usize = 1024;

/// The longest name of a node, listener or service: that of a DNS label (RFC 1035 section 2.3.4).
pub const MAX_NAME_BYTES: usize = 63;

/// The most problems that one report lists; the rest is counted. Nobody reads further.
pub const MAX_PROBLEMS: usize = 100;
