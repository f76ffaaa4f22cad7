//! Lives: weir-agent, metrics.
//! Called by: `mod`, at each scrape.
//! May touch: nothing but what it is handed.
//! Never: a name, label or help of its own; they stand in `families`.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Registry,
};

use super::families::{FAMILIES, Family, Now, Sample, Type, Value};

/// The media type of [`page`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as `OpenMetrics` text.
///
/// # Errors
/// Formatting failed.
pub fn page(now: &Now<'_>) -> Result<String, fmt::Error> {
    let read = FAMILIES.iter().map(|family| (family, (family.read)(now))).collect();
    let (mut registry, mut text) = (Registry::default(), String::new());
    registry.register_collector(Box::new(Scrape(read)));
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// What was read for one scrape.
struct Scrape(Vec<(&'static Family, Vec<Sample>)>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} families", self.0.len())
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, samples) in &self.0 {
            let kind = match family.kind {
                Type::Counter => MetricType::Counter,
                Type::Gauge => MetricType::Gauge,
                Type::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (values, value) in samples {
                // One without labels would be written as one with an empty set of them.
                if family.labels.is_empty() {
                    encode(metric, family.kind, value)?;
                    break;
                }
                let values: Vec<String> = values.iter().map(|value| escaped(value)).collect();
                let labels: Vec<(&str, &str)> =
                    family.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                encode(labelled(&mut metric, &labels)?, family.kind, value)?;
            }
        }
        Ok(())
    }
}

/// A label's value as the format wants it, which the library does not see to: an interface may have quotes in its name.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn labelled<'s>(
    metric: &'s mut MetricEncoder<'_>,
    labels: &'s impl EncodeLabelSet,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    metric.encode_family(labels)
}

fn encode(mut metric: MetricEncoder<'_>, kind: Type, value: &Value) -> fmt::Result {
    match (kind, value) {
        (Type::Counter, Value::Count(count)) => metric.encode_counter::<NoLabelSet, u64, u64>(count, None),
        (Type::Counter, Value::Number(number)) => metric.encode_counter::<NoLabelSet, f64, u64>(number, None),
        (Type::Gauge, Value::Count(count)) => metric.encode_gauge(count),
        (Type::Gauge, Value::Number(number)) => metric.encode_gauge(number),
        (Type::Histogram, Value::Times(histogram)) => histogram.encode(metric),
        (Type::Counter | Type::Gauge, Value::Times(_)) | (Type::Histogram, Value::Count(_) | Value::Number(_)) => {
            Err(fmt::Error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_quotes_does_not_end_the_label_it_is_in() {
        let family = Family {
            name: "weir_interface_attached",
            help: "h",
            kind: Type::Gauge,
            labels: &["interface"],
            read: |_| Vec::new(),
        };
        let family: &'static Family = Box::leak(Box::new(family));
        let samples = vec![(vec!["v\"a\\b\n".to_owned()], Value::Count(1))];
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(Scrape(vec![(family, samples)])));
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = r#"weir_interface_attached{interface="v\"a\\b\n"} 1"#;
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}
