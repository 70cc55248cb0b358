//! Means with confidence intervals, as Markdown.

use std::fmt::Write as _;

use crate::Outcome;
use crate::outcome::deviation;

/// Mean and half of the 95 % confidence interval (Student's t).
pub fn interval(values: &[f64]) -> (f64, f64) {
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count.max(1) as f64;
    let half = match count {
        0 | 1 => 0.0,
        _ => STUDENT[(count - 2).min(STUDENT.len() - 1)] * deviation(values) / (count as f64).sqrt(),
    };
    (mean, half)
}

/// A table of one row for each scenario and policy.
#[derive(Debug)]
pub struct Table(String);

impl Table {
    /// The heading.
    pub fn new() -> Self {
        let head = "| scenario | policy | p50 ms | p99 ms | p99.9 ms | errors % | across zones % ± sd | p99 5 s after |\n\
                    | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        Self(head.to_owned())
    }

    /// The row of one scenario and policy over its seeds.
    pub fn row(scenario: &str, policy: &str, runs: &[Outcome]) -> String {
        let cell = |of: fn(&Outcome) -> f64| {
            let (mean, half) = interval(&runs.iter().map(of).collect::<Vec<f64>>());
            let digits = if mean < 10.0 { 2 } else { usize::from(mean < 100.0) };
            format!("{mean:.digits$} ± {half:.digits$}")
        };
        let plain = |of: fn(&Outcome) -> f64| interval(&runs.iter().map(of).collect::<Vec<f64>>()).0;
        let errors = match plain(|it| it.errors) {
            0.0 => "0".to_owned(),
            _ => format!("{:.3}", plain(|it| it.errors)),
        };
        let across = match plain(|it| it.cross) {
            0.0 => String::new(),
            cross => format!("{cross:.1} ± {:.1}", plain(|it| it.cross_sd)),
        };
        let after = if plain(|it| it.event_p99) > 0.0 { cell(|it| it.event_p99) } else { String::new() };
        let (p50, p99, p999) = (cell(|it| it.p50), cell(|it| it.p99), cell(|it| it.p999));
        format!("| {scenario} | {policy} | {p50} | {p99} | {p999} | {errors} | {across} | {after} |\n")
    }

    /// Adds a row.
    pub fn push(&mut self, row: &str) {
        let _never_fails = self.0.write_str(row);
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// 97.5 % points of Student's t for 1, 2, … degrees of freedom.
const STUDENT: [f64; 30] = [
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09,
    2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
];
