//! The story as data: what happens, what one sees, and what must be true of it.

use std::time::Duration;

use super::backends::Wish;
use super::layout::PLACES;

/// A part of the story.
pub struct Chapter {
    /// What happens, in a few words.
    pub title: &'static str,
    /// What one sees and why, under the policy in force; one entry a line.
    pub caption: fn(policy: &str) -> Vec<&'static str>,
    /// What is done to the backends at its beginning.
    pub acts: &'static [Act],
    /// What must be true of its last [`TAIL`].
    pub expects: &'static [Expect],
    /// How long it takes when nobody needs to read along.
    pub length: Duration,
}

/// Something done to the backend of this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Its port closes.
    Die(usize),
    /// It is as it was at the beginning.
    Recover(usize),
    /// Everything takes ten times as long.
    SlowDown(usize),
}

impl Act {
    /// To whom, and how it is to behave from now on.
    pub fn wish(self) -> (usize, Wish) {
        match self {
            Self::Die(index) => (index, Wish { serving: false, ..Wish::well(index) }),
            Self::Recover(index) => (index, Wish::well(index)),
            Self::SlowDown(index) => (index, Wish { delay: PLACES[index].distance * SLOWER, serving: true }),
        }
    }
}

/// Something that must be true of the last part of a chapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The backend is left alone.
    Avoided(usize),
    /// The backend has work again.
    Used(usize),
    /// The backend has a clearly smaller share than in the first chapter. Promised by some policies only.
    Relieved(usize),
}

/// The whole story. Nothing is wrong before it and after it.
pub const CHAPTERS: [Chapter; 6] = [
    Chapter { title: "All is well", caption: well, acts: &[], expects: &[], length: seconds(4) },
    Chapter {
        title: "home-1 dies",
        caption: |_| {
            vec![
                "Its port is closed: whoever connects is refused. dislocate takes these",
                "clients to another backend, so that they notice nothing, and leaves home-1",
                "alone after a few refusals.",
            ]
        },
        acts: &[Act::Die(HOME[0])],
        expects: &[Expect::Avoided(HOME[0])],
        length: seconds(6),
    },
    Chapter {
        title: "home-1 returns",
        caption: |_| {
            vec![
                "Health checks knock on its door twice a second. When two in a row were",
                "answered, one client's connection is the trial, and then it is back.",
            ]
        },
        acts: &[Act::Recover(HOME[0])],
        expects: &[Expect::Used(HOME[0])],
        length: seconds(4),
    },
    Chapter {
        title: "home-2 slows down tenfold",
        caption: slow,
        acts: &[Act::SlowDown(HOME[1])],
        expects: &[Expect::Relieved(HOME[1])],
        length: seconds(4),
    },
    Chapter {
        title: "The whole home zone goes away",
        caption: |_| {
            vec![
                "Both home backends refuse. The other zones take over: the way is longer,",
                "but every client gets its answer.",
            ]
        },
        acts: &[Act::Die(HOME[0]), Act::Die(HOME[1])],
        expects: &[Expect::Avoided(HOME[0]), Expect::Avoided(HOME[1])],
        length: seconds(5),
    },
    Chapter {
        title: "The home zone comes back",
        caption: |_| vec!["As soon as its backends pass their checks, the traffic comes home."],
        acts: &[Act::Recover(HOME[0]), Act::Recover(HOME[1])],
        expects: &[Expect::Used(HOME[0]), Expect::Used(HOME[1])],
        length: seconds(4),
    },
];

/// What one sees while nothing is wrong.
pub fn well(policy: &str) -> Vec<&'static str> {
    match policy {
        "least_conn" => vec![
            "A new connection goes to the backend with the fewest open ones. Those at",
            "home are done sooner, so they get most. Idle far ones get some too, which",
            "is what the p99 shows.",
        ],
        "latency" => vec![
            "A new connection goes to the backend that is expected to answer soonest,",
            "judged by what its latest answers took.",
        ],
        _ => vec!["The bars show where new connections go."],
    }
}

fn slow(policy: &str) -> Vec<&'static str> {
    match policy {
        "least_conn" => vec![
            "It still works, so no check takes it out. But its connections stay open",
            "for longer, and who has more of them open gets fewer new ones.",
        ],
        "latency" => vec![
            "It still works, so no check takes it out. But its answers are seen to take",
            "longer, so new connections go elsewhere.",
        ],
        _ => vec!["It still works, so no check takes it out. The clients' p99 shows it."],
    }
}

/// Whether a policy moves traffic away from a backend that works, only slowly.
pub fn relieves_slow_backends(policy: &str) -> bool {
    matches!(policy, "least_conn" | "latency")
}

/// The part of a chapter about which expectations are: by then health checks and ejections have had their time.
pub const TAIL: Duration = seconds(2);
/// How much longer a slow backend takes.
const SLOWER: u32 = 10;
/// The backends of the home zone in [`PLACES`].
const HOME: [usize; 2] = [0, 1];

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_fits_into_half_a_minute_and_each_chapter_has_a_tail() {
        let total: Duration = CHAPTERS.iter().map(|chapter| chapter.length).sum();
        assert!(total <= seconds(27), "the rest is for starting and stopping: {total:?}");
        assert!(CHAPTERS.iter().all(|chapter| chapter.length >= 2 * TAIL), "things need time before the tail");
    }

    #[test]
    fn in_the_end_everything_is_as_it_was() {
        let mut wishes: Vec<Wish> = (0..PLACES.len()).map(Wish::well).collect();
        for (index, wish) in CHAPTERS.iter().flat_map(|chapter| chapter.acts).map(|act| act.wish()) {
            wishes[index] = wish;
        }
        assert!((0..PLACES.len()).all(|index| wishes[index] == Wish::well(index)), "nothing is left broken");
    }

    #[test]
    fn captions_fit_on_a_terminal() {
        for policy in balance::Policy::ALL.map(balance::Policy::as_str).into_iter().chain(["latency"]) {
            for line in CHAPTERS.iter().flat_map(|chapter| (chapter.caption)(policy)) {
                assert!(line.len() <= 76, "{line}");
            }
        }
    }
}
