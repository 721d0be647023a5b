//! The figures, as a table for people or a line of JSON for scripts.

use super::histogram::Histogram;

/// A figure.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    Count(u64),
    Real(f64),
    /// Nanoseconds, shown as microseconds.
    Micros(u64),
}

/// Names and figures, in the order in which they are shown.
#[derive(Default)]
pub(crate) struct Report(Vec<(&'static str, Value)>);

impl Report {
    pub(crate) fn count(&mut self, name: &'static str, value: u64) {
        self.0.push((name, Value::Count(value)));
    }

    pub(crate) fn real(&mut self, name: &'static str, value: f64) {
        self.0.push((name, Value::Real(value)));
    }

    /// Median, 99th and 99.9th percentile, and maximum of a histogram that is not empty.
    pub(crate) fn latencies(&mut self, names: [&'static str; 4], latencies: &Histogram) {
        if latencies.is_empty() {
            return;
        }
        for (name, quantile) in names.into_iter().zip([0.5, 0.99, 0.999]) {
            self.0.push((name, Value::Micros(latencies.quantile(quantile))));
        }
        self.0.push((names[3], Value::Micros(latencies.max())));
    }

    /// The text to print.
    pub(crate) fn show(&self, json: bool) -> String {
        let line = |(name, value): &(&str, Value)| {
            let value = match value {
                Value::Count(count) => count.to_string(),
                Value::Real(real) => format!("{real:.3}"),
                Value::Micros(nanos) => format!("{:.1}", *nanos as f64 / 1e3),
            };
            match json {
                true => format!("\"{name}\":{value}"),
                false => format!("{name:<26} {value:>14}"),
            }
        };
        let lines: Vec<_> = self.0.iter().map(line).collect();
        if json { format!("{{{}}}", lines.join(",")) } else { lines.join("\n") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_table_or_json() {
        let mut report = Report::default();
        report.count("published", 5);
        report.real("seconds", 1.5);
        let mut latencies = Histogram::new();
        report.latencies(["a", "b", "c", "d"], &latencies);
        latencies.record(2500);
        report.latencies(["p50", "p99", "p999", "max"], &latencies);
        let json = r#"{"published":5,"seconds":1.500,"p50":2.5,"p99":2.5,"p999":2.5,"max":2.5}"#;
        assert_eq!(report.show(true), json);
        assert!(report.show(false).starts_with("published                               5\n"));
    }
}
