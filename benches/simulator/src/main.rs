//! Prints the table of all scenarios and policies.
//!
//! `dislocate-simulator [--seeds N] [--seconds N] [--scenario NAME]… [--policy NAME]… [--detail]`
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use simulator::{Outcome, Policy, Scenario, Table, run, scenarios};

struct Args {
    seeds: u64,
    seconds: u64,
    scenarios: Vec<String>,
    policies: Vec<String>,
    detail: bool,
}

fn main() {
    let args = match args() {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}");
            std::process::exit(2);
        }
    };
    let all: Vec<Scenario> =
        scenarios(args.seconds).into_iter().filter(|it| chosen(&args.scenarios, it.name)).collect();
    let policies: Vec<Policy> = Policy::ALL.into_iter().filter(|it| chosen(&args.policies, it.as_str())).collect();
    let mut jobs = Vec::new();
    for (scenario, policy) in (0..all.len()).flat_map(|s| (0..policies.len()).map(move |p| (s, p))) {
        jobs.extend((1..=args.seeds).map(|seed| (scenario, policy, seed)));
    }
    let done = Mutex::new(BTreeMap::<(usize, usize), Vec<(u64, Outcome)>>::new());
    let next = AtomicUsize::new(0);
    print!("{}", Table::new().as_str());
    let printed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&(scenario, policy, seed)) = jobs.get(next.fetch_add(1, Relaxed)) {
                    let outcome = run(&all[scenario], policies[policy], seed);
                    let Ok(mut done) = done.lock() else { return };
                    done.entry((scenario, policy)).or_default().push((seed, outcome));
                    print_ready(&args, &all, &policies, &mut done, &printed);
                }
            });
        }
    });
}

/// Prints the rows that are complete, in order.
fn print_ready(
    args: &Args,
    all: &[Scenario],
    policies: &[Policy],
    done: &mut BTreeMap<(usize, usize), Vec<(u64, Outcome)>>,
    printed: &AtomicUsize,
) {
    loop {
        let at = printed.load(Relaxed);
        let key = (at / policies.len(), at % policies.len());
        let Some(runs) = done.get_mut(&key).filter(|runs| runs.len() as u64 == args.seeds) else { return };
        runs.sort_by_key(|&(seed, _)| seed);
        let outcomes: Vec<Outcome> = runs.iter().map(|(_, outcome)| outcome.clone()).collect();
        let (scenario, policy) = (all[key.0].name, policies[key.1].as_str());
        print!("{}", Table::row(scenario, policy, &outcomes));
        if args.detail {
            for outcome in &outcomes {
                println!("    {outcome:?}");
            }
        }
        printed.store(at + 1, Relaxed);
    }
}

fn chosen(wanted: &[String], name: &str) -> bool {
    wanted.is_empty()
        || wanted.iter().any(|it| it == name || it.strip_suffix('*').is_some_and(|it| name.starts_with(it)))
}

fn args() -> Result<Args, String> {
    let mut parsed = Args { seeds: 10, seconds: 60, scenarios: vec![], policies: vec![], detail: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--detail" {
            parsed.detail = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word}: a value is missing"))?;
        let number = || value.parse().map_err(|_| format!("{word}: {value:?} is not a number"));
        match word.as_str() {
            "--seeds" => parsed.seeds = number()?,
            "--seconds" => parsed.seconds = number()?,
            "--scenario" => parsed.scenarios.push(value),
            "--policy" => parsed.policies.push(value),
            _ => return Err(format!("{word} is not an option")),
        }
    }
    Ok(parsed)
}
