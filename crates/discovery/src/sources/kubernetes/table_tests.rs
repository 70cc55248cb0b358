use balance::{Rng, Zone};

use super::*;

fn address(n: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, (n / 256) as u8, (n % 256) as u8], 80))
}

fn entry(state: State) -> Entry {
    Entry { zone: None, state, is_terminating: state == State::Ending }
}

fn slice(name: &str, entries: &[(u64, State)]) -> Slice {
    let entries = entries.iter().map(|&(n, state)| (address(n), entry(state))).collect();
    Slice { name: name.into(), entries, ..Slice::default() }
}

fn table(slices: &[Slice]) -> Table {
    let mut table = Table::default();
    slices.iter().for_each(|slice| table.put(slice.clone()).unwrap());
    table
}

/// Each endpoint as its last octet, its weight and what is reported.
fn said(list: &[Found]) -> Vec<(u8, u32, Reported)> {
    let octet = |found: &Found| match &found.address {
        Address::Inet(SocketAddr::V4(v4)) => v4.ip().octets()[3],
        other => panic!("{other} is none of ours"),
    };
    list.iter().map(|found| (octet(found), found.weight, found.reported)).collect()
}

use Reported::{NotReady as R0, Ready as R1};
use State::{Ending, NotReady, Ready};

#[test]
fn slices_are_united_and_of_two_words_the_better_counts() {
    let mut table = table(&[
        slice("a", &[(1, Ready), (2, NotReady), (3, Ending), (1, NotReady)]),
        slice("b", &[(2, Ready), (3, NotReady), (4, NotReady)]),
    ]);
    let list = table.list().unwrap().expect("nothing was told");
    assert_eq!(said(&list), [(1, 1, R1), (2, 1, R1), (3, 0, R1), (4, 1, R0)]);
    assert_eq!(&*list[0].id, "10.0.0.1:80");
    assert_eq!(table.list().unwrap(), None, "that was told");
}

#[test]
fn those_who_end_get_new_sessions_only_while_nobody_is_ready() {
    let mut table = table(&[slice("a", &[(1, Ready), (2, Ending)])]);
    assert_eq!(said(&table.list().unwrap().unwrap()), [(1, 1, R1), (2, 0, R1)]);
    table.put(slice("a", &[(1, Ending), (2, Ending)])).unwrap();
    assert_eq!(said(&table.news().unwrap().upserts), [(2, 1, R1)], "the other may go on as it did");
    table.put(slice("b", &[(3, Ready)])).unwrap();
    assert_eq!(said(&table.news().unwrap().upserts), [(1, 0, R1), (2, 0, R1), (3, 1, R1)]);
}

#[test]
fn who_was_being_taken_away_leaves_at_once_and_others_are_losses() {
    let mut table = table(&[slice("a", &[(1, Ready), (2, Ending), (3, NotReady), (4, Ready)])]);
    table.list().unwrap();
    table.put(slice("a", &[(4, Ready)])).unwrap();
    let news = table.news().unwrap();
    assert_eq!((news.upserts.len(), &news.removals[..], news.has_losses), (0, &["10.0.0.2:80".into()][..], true));
    assert!(table.news().unwrap().has_losses, "they are lost until that is told");
    assert_eq!(said(&table.list().unwrap().unwrap()), [(4, 1, R1)]);
    assert_eq!(table.news().unwrap(), News::default());
}

#[test]
fn who_moves_from_one_slice_to_another_is_never_lost() {
    // In both for a while.
    let mut both = table(&[slice("a", &[(1, Ready), (2, Ready)])]);
    both.list().unwrap();
    both.put(slice("b", &[(2, Ready)])).unwrap();
    assert_eq!(both.news().unwrap(), News::default());
    both.put(slice("a", &[(1, Ready)])).unwrap();
    assert_eq!(both.news().unwrap(), News::default());
    // In none for a while.
    let mut none = table(&[slice("a", &[(1, Ready), (2, Ready)])]);
    none.list().unwrap();
    none.put(slice("a", &[(1, Ready)])).unwrap();
    assert!(none.news().unwrap().has_losses);
    none.put(slice("b", &[(2, Ready)])).unwrap();
    assert_eq!(none.news().unwrap(), News::default(), "it is back");
    // A slice that is deleted when all that was in it is elsewhere.
    none.put(slice("c", &[(1, Ready)])).unwrap();
    none.remove("a");
    assert_eq!(none.news().unwrap(), News::default());
    none.remove("nobody knows this one");
}

#[test]
fn a_port_that_is_nowhere_is_an_error_and_one_that_is_somewhere_is_not() {
    let without = |name: &str| Slice { other_ports: Some("http=80".into()), ..slice(name, &[]) };
    let error = table(&[without("a")]).list().expect_err("nobody has the port");
    assert_eq!(error.text(), "the pods have other ports: http=80");
    assert!(table(&[without("a"), slice("b", &[(1, Ready)])]).list().is_ok());
    assert_eq!(table(&[]).list().map(|list| list.map(|list| list.len())), Ok(Some(0)), "nobody is there at all");
    let ambiguous = Slice { is_ambiguous: true, ..without("a") };
    let error = table(&[ambiguous, slice("b", &[(1, Ready)])]).list().expect_err("which one?");
    assert!(error.text().contains("one is to be chosen: http=80"), "{error}");
}

#[test]
fn what_is_left_out_is_counted() {
    let mut table = table(&[
        Slice { left_out: Some((2, "why".into())), ..slice("a", &[]) },
        Slice { left_out: Some((3, "why not".into())), ..slice("b", &[]) },
    ]);
    assert_eq!(table.left_out(), Some((5, "why")));
    table.clear();
    assert_eq!(table.left_out(), None);
}

#[test]
fn there_are_never_too_many() {
    let many = |name: &str, from: u64| {
        let entries = (from..from + 1_000).map(|n| SocketAddr::from(((n as u32).to_be_bytes(), 80)));
        let entries = entries.map(|address| (address, entry(Ready))).collect();
        Slice { name: name.into(), entries, ..Slice::default() }
    };
    let mut table = Table::default();
    let mut put = 0;
    while table.put(many(&put.to_string(), put * 1_000 + 1)).is_ok() {
        put += 1;
        table.put(many("0", 1)).expect("the same again takes no more");
    }
    assert_eq!(put, 99, "with the slices themselves, a hundred thousand");
    let mut empty = Table::default();
    let put = (0..).take_while(|n| empty.put(slice(&n.to_string(), &[])).is_ok()).count();
    assert_eq!(put, ENDPOINTS_MAX, "slices without endpoints are bounded too");
}

/// Whatever the slices do, what was told by changes is what a list would have said, but for losses.
#[test]
fn changes_add_up_to_the_list() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut table = Table::default();
        let mut known: BTreeMap<Box<str>, Found> = BTreeMap::new();
        let keep = |list: Vec<Found>| list.into_iter().map(|found| (found.id.clone(), found)).collect();
        if let Some(list) = table.list().unwrap() {
            known = keep(list);
        }
        for _ in 0..40 {
            for _ in 0..rng.below(3) {
                let name = rng.below(4).to_string();
                match rng.below(4) {
                    0 => table.remove(&name),
                    _ => {
                        let states = [Ready, Ending, NotReady];
                        let entries: Vec<_> =
                            (0..rng.below(5)).map(|_| (rng.below(6), states[rng.below(3) as usize])).collect();
                        table.put(slice(&name, &entries)).unwrap();
                    }
                }
            }
            let news = table.news().unwrap();
            for found in news.upserts {
                assert_ne!(known.insert(found.id.clone(), found.clone()), Some(found), "that was known");
            }
            for id in news.removals {
                assert!(known.remove(&id).is_some(), "{id} was never told");
            }
            let now = table.endpoints().unwrap();
            let all: BTreeMap<_, _> = now.values().map(|told| (told.found.id.clone(), told.found.clone())).collect();
            assert!(all.iter().all(|(id, found)| known.get(id) == Some(found)), "seed {seed}");
            assert_eq!(known.len() > all.len(), news.has_losses, "seed {seed}");
            if rng.below(4) == 0
                && let Some(list) = table.list().unwrap()
            {
                known = keep(list);
                assert_eq!(known, all);
            }
        }
    }
}

#[test]
fn a_zone_that_changes_is_news() {
    let mut table = table(&[slice("a", &[(1, Ready)])]);
    table.list().unwrap();
    let mut moved = slice("a", &[(1, Ready)]);
    moved.entries[0].1.zone = Zone::new("fra");
    table.put(moved).unwrap();
    assert_eq!(table.news().unwrap().upserts[0].zone, Zone::new("fra"));
}
