//! What the object store does and holds, in the text format of Prometheus ("Exposition formats").

use crate::Store;
use http::StatusCode;
use s3s::S3Result;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Buckets whose traffic is counted one by one, at most; the others are counted together.
const BUCKETS: usize = 10_000;

/// The operation that a request turned out to be: filled in on its way.
#[derive(Clone, Default)]
pub struct Operation(Arc<OnceLock<String>>);

impl Operation {
    pub fn set(&self, name: &str) {
        let _ = self.0.set(name.to_owned());
    }
}

/// A request and its answer, as they are counted.
pub struct Done {
    pub operation: Operation,
    pub bucket: Option<String>,
    pub status: StatusCode,
    pub took: Duration,
    /// Bytes of the body, and of the answer's.
    pub received: u64,
    pub sent: u64,
}

#[derive(Default)]
pub struct Metrics(Mutex<Counters>);

#[derive(Default)]
struct Counters {
    requests: BTreeMap<(String, u16), u64>,
    seconds: BTreeMap<String, f64>,
    traffic: BTreeMap<String, (u64, u64)>,
}

impl Metrics {
    pub fn count(&self, done: Done) {
        let operation = done.operation.0.get();
        let operation = operation.map_or("refused", String::as_str).to_owned();
        let mut counters = self.0.lock().expect("no holder of this lock panics");
        *counters
            .requests
            .entry((operation.clone(), done.status.as_u16()))
            .or_default() += 1;
        *counters.seconds.entry(operation).or_default() += done.took.as_secs_f64();
        // What a stranger names needn't be a bucket.
        if let Some(bucket) = done.bucket.filter(|_| done.status.is_success()) {
            let known = counters.traffic.len() < BUCKETS || counters.traffic.contains_key(&bucket);
            let bucket = if known { bucket } else { "others".to_owned() };
            let traffic = counters.traffic.entry(bucket).or_default();
            traffic.0 += done.received;
            traffic.1 += done.sent;
        }
    }

    pub fn forget(&self, bucket: &str) {
        let mut counters = self.0.lock().expect("no holder of this lock panics");
        counters.traffic.remove(bucket);
    }

    fn write(&self, text: &mut Text) {
        let counters = self.0.lock().expect("no holder of this lock panics");
        text.kind(
            "boira_s3_requests_total",
            "counter",
            "Requests by operation and status.",
        );
        for ((operation, code), count) in &counters.requests {
            let labels = [
                ("operation", operation.as_str()),
                ("code", &code.to_string()),
            ];
            text.value("boira_s3_requests_total", &labels, *count as f64);
        }
        text.kind(
            "boira_s3_request_seconds_total",
            "counter",
            "Time until the answers began, by operation.",
        );
        for (operation, seconds) in &counters.seconds {
            let labels = [("operation", operation.as_str())];
            text.value("boira_s3_request_seconds_total", &labels, *seconds);
        }
        for (name, help, which) in [
            (
                "boira_s3_received_bytes_total",
                "Bytes of bodies that were taken.",
                0,
            ),
            ("boira_s3_sent_bytes_total", "Bytes of answers.", 1),
        ] {
            text.kind(name, "counter", help);
            for (bucket, traffic) in &counters.traffic {
                let bytes = if which == 0 { traffic.0 } else { traffic.1 };
                text.value(name, &[("bucket", bucket)], bytes as f64);
            }
        }
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn kind(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let label = |(name, value): &(&str, &str)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        };
        let labels = labels.iter().map(label).collect::<Vec<_>>().join(",");
        let labels = if labels.is_empty() {
            labels
        } else {
            format!("{{{labels}}}")
        };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

impl Store {
    /// All of it, with what the buckets hold and which objects are known to be damaged.
    pub async fn metrics(self: &Arc<Self>) -> S3Result<String> {
        let mut text = Text::default();
        self.metrics.write(&mut text);
        let held = self.usage(None).await?;
        text.kind(
            "boira_bucket_objects",
            "gauge",
            "Current objects of a bucket.",
        );
        for bucket in &held {
            let labels = [("bucket", bucket.name.as_str()), ("account", &bucket.owner)];
            text.value("boira_bucket_objects", &labels, bucket.held.objects as f64);
        }
        text.kind(
            "boira_bucket_bytes",
            "gauge",
            "Bytes of a bucket, by what they belong to.",
        );
        for bucket in &held {
            for (kind, bytes) in [
                ("current", bucket.held.bytes),
                ("older", bucket.held.older_bytes),
                ("uploads", bucket.held.upload_bytes),
            ] {
                let labels = [
                    ("bucket", bucket.name.as_str()),
                    ("account", &bucket.owner),
                    ("kind", kind),
                ];
                text.value("boira_bucket_bytes", &labels, bytes as f64);
            }
        }
        text.kind(
            "boira_object_damaged",
            "gauge",
            "Objects whose bytes on the disk aren't what was written.",
        );
        for object in self.damaged_objects().await? {
            text.value("boira_object_damaged", &[("object", &object)], 1.0);
        }
        Ok(text.0)
    }

    /// What was found damaged since the start and is still needed.
    async fn damaged_objects(self: &Arc<Self>) -> S3Result<Vec<String>> {
        let mut found = Vec::new();
        for content in self.contents.damaged.all() {
            let users = self.users_of(content).await?;
            if users.is_empty() {
                self.contents.damaged.forget(content);
            }
            found.extend(users);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_prometheus() {
        let metrics = Metrics::default();
        for status in [StatusCode::OK, StatusCode::OK, StatusCode::NOT_FOUND] {
            let operation = Operation::default();
            operation.set("GetObject");
            metrics.count(Done {
                operation,
                bucket: Some("b".into()),
                status,
                took: Duration::from_millis(250),
                received: 0,
                sent: 10,
            });
        }
        let mut text = Text::default();
        metrics.write(&mut text);
        text.value("odd", &[("name", "a\"b\\c\nd")], 1.5);
        for line in [
            "# TYPE boira_s3_requests_total counter",
            "boira_s3_requests_total{operation=\"GetObject\",code=\"200\"} 2",
            "boira_s3_requests_total{operation=\"GetObject\",code=\"404\"} 1",
            "boira_s3_request_seconds_total{operation=\"GetObject\"} 0.75",
            "boira_s3_sent_bytes_total{bucket=\"b\"} 20",
            "odd{name=\"a\\\"b\\\\c\\nd\"} 1.5",
        ] {
            assert!(
                text.0.lines().any(|found| found == line),
                "{line}\n{}",
                text.0
            );
        }
    }
}
