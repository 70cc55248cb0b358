//! The metrics page, parsed.

use std::collections::BTreeMap;

/// Every sample of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
    types: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Strict: a line that is neither a comment nor a sample is an error that quotes it.
    pub fn parse(page: &str) -> Result<Metrics, String> {
        let mut metrics = Metrics::default();
        for line in page.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                if let Some((name, kind)) = comment.strip_prefix("TYPE ").and_then(|rest| rest.split_once(' ')) {
                    metrics.types.insert(name.into(), kind.into());
                }
            } else {
                metrics.samples.push(sample(line).ok_or_else(|| format!("not a sample: {line}"))?);
            }
        }
        Ok(metrics)
    }

    /// Sum of the samples that a selector such as `picks_total{backend="a",reason="retry"}` takes; the prefix
    /// `dislocate_` is left out.
    pub fn sum(&self, selector: &str) -> f64 {
        self.matching(selector).map(|sample| sample.value).sum()
    }

    /// Whether any sample is there for a selector.
    pub fn has(&self, selector: &str) -> bool {
        self.matching(selector).next().is_some()
    }

    /// Names of all families, as their TYPE lines give them.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// Values that a label has in the samples of one name.
    pub fn label_values(&self, name: &str, label: &str) -> Vec<String> {
        self.matching(name).filter_map(|sample| sample.labels.get(label).cloned()).collect()
    }

    /// Samples that belong to no TYPE line.
    pub fn untyped(&self) -> Vec<&str> {
        let family = |name: &str| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|end| name.strip_suffix(end))
                .any(|base| self.is_typed(base))
        };
        let untyped = |name: &&str| !self.is_typed(name) && !family(name);
        self.samples.iter().map(|sample| sample.name.as_str()).filter(untyped).collect()
    }

    fn is_typed(&self, name: &str) -> bool {
        self.types.contains_key(name)
    }

    fn matching<'a>(&'a self, selector: &'a str) -> impl Iterator<Item = &'a Sample> {
        let (name, wanted) = parts(selector).unwrap_or_else(|| panic!("{selector} is no selector"));
        self.samples.iter().filter(move |sample| {
            sample.name.strip_prefix("dislocate_") == Some(name)
                && wanted.iter().all(|(label, value)| sample.labels.get(label) == Some(value))
        })
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (selector, value) = line.rsplit_once(' ')?;
    let (name, labels) = parts(selector)?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        other => other.parse().ok()?,
    };
    Some(Sample { name: name.into(), labels, value })
}

/// Name and labels; label values in these tests hold no quote and no comma.
fn parts(selector: &str) -> Option<(&str, BTreeMap<String, String>)> {
    let Some((name, rest)) = selector.split_once('{') else { return Some((selector, BTreeMap::new())) };
    let labels = rest.strip_suffix('}')?.split(',').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (label, value) = pair.split_once('=')?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        Some((label.trim().to_owned(), value.to_owned()))
    };
    Some((name, labels.map(pair).collect::<Option<_>>()?))
}
