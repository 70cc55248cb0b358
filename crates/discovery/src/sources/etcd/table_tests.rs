use super::*;
use crate::sources::etcd::messages::{Bytes, Int};

fn kv(key: &str, value: &str, mod_revision: u64, lease: u64) -> Object<KeyValue> {
    let (key, value) = (Bytes(key.into()), Bytes(value.into()));
    Object(KeyValue { key, value, mod_revision: Int(mod_revision), lease: Int(lease) })
}

fn record(port: u16) -> String {
    format!(r#"{{"address": "10.0.0.1:{port}"}}"#)
}

fn put(key: &str, value: &str, revision: u64) -> Object<Change> {
    Object(Change { kind: ChangeKind::Put, kv: kv(key, value, revision, 0) })
}

fn leased(key: &str, value: &str, revision: u64) -> Object<Change> {
    Object(Change { kind: ChangeKind::Put, kv: kv(key, value, revision, 9) })
}

fn delete(key: &str, revision: u64) -> Object<Change> {
    Object(Change { kind: ChangeKind::Delete, kv: kv(key, "", revision, 0) })
}

/// A table with the keys `a` on port 1 and `l`, which has a lease, on port 2, as of revision 10.
fn table() -> Table {
    let mut table = Table::default();
    table.replace(vec![kv("a", &record(1), 5, 0), kv("l", &record(2), 7, 9)], 10).unwrap();
    table
}

/// Ids and ports.
fn listed(table: &Table) -> Vec<(String, u16)> {
    let port = |found: &Found| found.address.inet().unwrap().port();
    table.list().iter().map(|found| (found.id.to_string(), port(found))).collect()
}

/// `+id:port`, `-id` and `list`, in the order in which they are said.
fn said(news: &News) -> String {
    let mut out = Vec::new();
    for event in &news.events {
        match event {
            Event::Upsert(found) => {
                out.extend(found.iter().map(|found| format!("+{}:{}", found.id, found.address.inet().unwrap().port())))
            }
            Event::Remove(ids) => out.extend(ids.iter().map(|id| format!("-{id}"))),
            other => panic!("{other:?} is not for single changes"),
        }
    }
    out.extend(news.list.then(|| "list".to_owned()));
    out.join(" ")
}

#[test]
fn a_change_is_said_once_and_as_it_ended() {
    let bad = "{\"adress\": 1}";
    let cases = [
        (vec![put("b", &record(3), 11)], "+b:3"),
        (vec![put("a", &record(3), 11)], "+a:3"),
        (vec![put("a", &record(1), 11)], ""),
        (vec![delete("a", 11)], "-a"),
        (vec![delete("l", 11)], "list"),
        (vec![delete("x", 11)], ""),
        (vec![put("b", &record(3), 11), delete("b", 12)], ""),
        (vec![delete("a", 11), put("a", &record(1), 12)], ""),
        (vec![delete("a", 11), put("a", &record(4), 12)], "+a:4"),
        (vec![put("b", &record(3), 11), put("b", &record(4), 12), delete("a", 13), delete("l", 14)], "+b:4 -a list"),
        // The lease that a key had when it ended counts.
        (vec![leased("a", &record(1), 11)], ""),
        (vec![put("a", bad, 11)], ""),
        (vec![put("b", bad, 11)], ""),
        (vec![put("b", bad, 11), put("b", &record(5), 12)], "+b:5"),
        (vec![put("a", bad, 11), delete("a", 12)], "-a"),
        (vec![], ""),
    ];
    for (changes, expected) in cases {
        let mut table = table();
        let shown = format!("{changes:?}");
        assert_eq!(said(&table.change(changes).unwrap()), expected, "{shown}");
    }
    let mut table = table();
    table.change(vec![leased("a", &record(1), 11)]).unwrap();
    assert_eq!(said(&table.change(vec![delete("a", 12)]).unwrap()), "list");
}

#[test]
fn the_revision_follows_what_was_told_of_our_keys() {
    let mut table = table();
    assert_eq!(table.next_revision(), 11);
    table.change(vec![put("b", &record(3), 17), put("a", &record(3), 15)]).unwrap();
    assert_eq!(table.next_revision(), 18);
    table.replace(vec![], 40).unwrap();
    assert_eq!(table.next_revision(), 41);
    assert_eq!(table.list(), []);
}

#[test]
fn a_value_that_cannot_be_read_leaves_its_key_as_it_was() {
    let mut table = table();
    table.change(vec![put("a", "nonsense", 11), put("b", "", 12)]).unwrap();
    assert_eq!(listed(&table), [("a".into(), 1), ("l".into(), 2)]);
    assert!(table.take_unreadable().unwrap().starts_with("a: not as expected"));
    assert_eq!(table.take_unreadable(), None, "it is told once");
    table.change(vec![put("a", "nonsense", 13)]).unwrap();
    assert_eq!(table.take_unreadable(), None, "also when it comes again");
    table.change(vec![put("a", "[", 14)]).unwrap();
    assert!(table.take_unreadable().is_some());
    table.replace(vec![kv("a", "nonsense", 11, 0), kv("b", "", 12, 0), kv("c", &record(9), 13, 0)], 20).unwrap();
    assert_eq!(listed(&table), [("a".into(), 1), ("c".into(), 9)], "also when all keys are read anew");
    table.replace(vec![], 21).unwrap();
    table.replace(vec![kv("a", "nonsense", 11, 0)], 22).unwrap();
    assert_eq!(listed(&table), [], "but not when it was gone in between");
}

#[test]
fn ids_are_keys_in_print() {
    let mut table = Table::default();
    let long = "x".repeat(ID_MAX_BYTES + 1);
    table.replace(vec![kv("/web/\n\u{e9}", &record(1), 1, 0), kv(&long, &record(1), 1, 0)], 1).unwrap();
    assert_eq!(listed(&table), [(r"/web/\n\xc3\xa9".into(), 1)]);
    assert!(table.take_unreadable().unwrap().ends_with("…: the key is too long"));
}

#[test]
fn keys_are_bounded_in_number() {
    let mut table = Table::default();
    let many = |n: usize| (0..n).map(|n| kv(&format!("{n:06}"), "", 1, 0)).collect();
    assert!(table.replace(many(ENDPOINTS_MAX + 1), 1).is_err());
    table.replace(many(ENDPOINTS_MAX), 1).unwrap();
    assert!(table.change(vec![put("000007", &record(1), 2)]).is_ok(), "a known key");
    assert!(table.change(vec![put("b", "", 3)]).is_err(), "one more, though it cannot be read");
}

#[test]
fn whatever_happens_the_told_changes_add_up_to_the_list() {
    for seed in 0..200 {
        let mut rng = balance::Rng::new(seed);
        let mut table = Table::default();
        let mut told: BTreeMap<Box<str>, Found> = BTreeMap::new();
        for revision in 1..100 {
            let changes = (0..rng.below(4)).map(|_| {
                let key = ["a", "b", "c"][rng.below(3) as usize];
                match rng.below(4) {
                    0 => delete(key, revision),
                    1 => put(key, "nonsense", revision),
                    2 => leased(key, &record(1 + rng.below(3) as u16), revision),
                    _ => put(key, &record(1 + rng.below(3) as u16), revision),
                }
            });
            let news = table.change(changes.collect()).unwrap();
            for event in news.events {
                match event {
                    Event::Upsert(found) => told.extend(found.into_iter().map(|found| (found.id.clone(), found))),
                    Event::Remove(ids) => ids.iter().for_each(|id| assert!(told.remove(id).is_some(), "it was there")),
                    other => panic!("{other:?} is not for single changes"),
                }
            }
            if news.list {
                told = table.list().into_iter().map(|found| (found.id.clone(), found)).collect();
            }
            assert_eq!(told.values().cloned().collect::<Vec<_>>(), table.list(), "seed {seed}");
        }
    }
}
