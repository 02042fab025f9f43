//! Prometheus metrics, served over HTTP: the report of `herald status` in another form.
//!
//! Nothing is counted here: every scrape asks the driver for a report and turns it into samples
//! (`samples`), so the numbers are those that status shows. MetalLB's and Cilium's names are there
//! besides Herald's own, because dashboards and alerts know them. Read `samples` for the names.

mod samples;
pub mod server;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde_json::Value;

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gauge,
    /// Its name is written without `_total`, which the format appends.
    Counter,
}

impl Kind {
    fn encode(self, value: f64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Gauge => ConstGauge::new(value).encode(encoder),
            Self::Counter => ConstCounter::new(value).encode(encoder),
        }
    }
}

/// One metric with all its samples.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

/// Labels and the number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

/// A report, as the speaker's socket gives it, in the OpenMetrics text format.
///
/// # Errors
///
/// None that is known: writing into a string does not fail.
pub fn render(report: &Value) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Samples(samples::of(report))));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Samples(Vec<Metric>);

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for metric in self.0.iter().filter(|metric| !metric.samples.is_empty()) {
            let kind = match metric.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            if let [Sample { labels, value }] = &*metric.samples
                && labels.is_empty()
            {
                metric.kind.encode(*value, family)?;
                continue;
            }
            for sample in &metric.samples {
                let labels: Vec<(&str, &str)> =
                    sample.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
                metric.kind.encode(sample.value, family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
