//! Lives: collector, attributes as OTLP has them.
//! Called by: `log` and `metrics`.
//! May touch: nothing.
//! Never: sends a value that says nothing; lets one grow without bound.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::otlp::names::{Attribute, HOST_NAME, SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION};

/// Longest text, bytes: a path has at most as many. Longer ones are cut.
const MAX_TEXT: usize = 4096;
/// Most values of one attribute.
const MAX_TEXTS: usize = 128;

/// Attributes being put together.
#[derive(Debug, Default)]
pub struct Attributes(Vec<KeyValue>);

impl Attributes {
    /// A text; an empty one is left out.
    pub fn text(&mut self, attribute: &Attribute, value: &str) {
        if !value.is_empty() {
            self.add(attribute, text(value));
        }
    }

    /// Texts; none are left out.
    pub fn texts(&mut self, attribute: &Attribute, values: &[String]) {
        if !values.is_empty() {
            let values = values.iter().take(MAX_TEXTS).map(|value| AnyValue { value: Some(text(value)) }).collect();
            self.add(attribute, Value::ArrayValue(ArrayValue { values }));
        }
    }

    /// A number.
    pub fn number(&mut self, attribute: &Attribute, value: impl Into<u64>) {
        self.add(attribute, Value::IntValue(i64::try_from(value.into()).unwrap_or(i64::MAX)));
    }

    /// A number that says nothing when it is 0.
    pub fn nonzero(&mut self, attribute: &Attribute, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.number(attribute, value);
        }
    }

    fn add(&mut self, attribute: &Attribute, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: attribute.name.to_owned(), value, ..KeyValue::default() });
    }

    /// All of them.
    pub fn done(self) -> Vec<KeyValue> {
        self.0
    }
}

/// A text as a value.
pub fn text(value: &str) -> Value {
    let end = (0..=MAX_TEXT.min(value.len())).rev().find(|end| value.is_char_boundary(*end)).unwrap_or_default();
    Value::StringValue(value.get(..end).unwrap_or_default().to_owned())
}

/// Whoever reports; an instance is named in metrics only, whose sums begin anew with each.
pub fn resource(service: &str, host: &str, instance: &str) -> Resource {
    let mut attributes = Attributes::default();
    attributes.text(&SERVICE_NAME, service);
    attributes.text(&SERVICE_VERSION, env!("CARGO_PKG_VERSION"));
    attributes.text(&SERVICE_INSTANCE_ID, instance);
    attributes.text(&HOST_NAME, host);
    Resource { attributes: attributes.done(), ..Resource::default() }
}

/// What has made the records and the metrics.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "weir-collector".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}
