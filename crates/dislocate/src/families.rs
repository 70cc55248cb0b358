//! Samples gathered into the families that the text encoder wants.

use std::collections::BTreeMap;

use balance::HistogramSnapshot;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Label names and values.
pub type Labels<'a> = [(&'static str, &'a str)];

/// Families by name, in which samples are put one by one.
#[derive(Default)]
pub struct Families(BTreeMap<&'static str, MetricFamily>);

impl Families {
    /// Adds a sample to `dislocate_NAME`; the first sample of a family says its kind and help.
    pub fn add(&mut self, kind: Kind, name: &'static str, help: &str, labels: &Labels<'_>, value: f64) {
        let mut metric = labelled(labels);
        let of_kind = match kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
                MetricType::COUNTER
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
                MetricType::GAUGE
            }
        };
        self.put(name, help, of_kind, metric);
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, name: &'static str, help: &str, labels: &Labels<'_>, snapshot: HistogramSnapshot) {
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(snapshot.buckets.into_iter().map(bucket).collect());
        histogram.set_sample_count(snapshot.count);
        histogram.set_sample_sum(snapshot.sum_seconds);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.put(name, help, MetricType::HISTOGRAM, metric);
    }

    /// All families, by name.
    pub fn into_sorted(self) -> Vec<MetricFamily> {
        self.0.into_values().collect()
    }

    fn put(&mut self, name: &'static str, help: &str, kind: MetricType, metric: Metric) {
        let family = self.0.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(format!("dislocate_{name}"));
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        family.mut_metric().push(metric);
    }
}

fn labelled(labels: &Labels<'_>) -> Metric {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}
