//! Prometheus' text format (0.0.4), which every scraper reads: a head for each metric, then a line for
//! each of its values. A metric is written under a name of the table of metrics only, and only with the
//! labels that stand there.

use std::fmt::Write as _;

/// The format's name in an answer.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric: what the page says of it, and the documents, too.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// The page, as it is written.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    /// Begins a metric; its values follow.
    pub(super) fn metric(&mut self, metric: &'static Metric) -> Values<'_> {
        let (name, help) = (metric.name, metric.help.replace('\\', "\\\\").replace('\n', " "));
        self.line(&format!("# HELP {name} {help}\n# TYPE {name} {}", metric.kind.as_str()));
        Values { page: self, metric }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, text: &str) {
        // Writing into a String can't fail.
        let _ = writeln!(self.0, "{text}");
    }
}

/// The values of one metric.
pub(super) struct Values<'a> {
    page: &'a mut Page,
    metric: &'static Metric,
}

impl Values<'_> {
    /// One value; `labels` in the order of the table.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        let line = format!("{}{} {value}", self.metric.name, self.labels(labels, None));
        self.page.line(&line);
    }

    /// A histogram: the counts up to each bound, of which the last has none, and the sum.
    pub(super) fn add_histogram(&mut self, labels: &[&str], bounds: &[f64], counts: &[u64], sum: f64) {
        let name = self.metric.name;
        let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_string()]);
        for (bound, count) in bounds.zip(counts) {
            let line = format!("{name}_bucket{} {count}", self.labels(labels, Some(&bound)));
            self.page.line(&line);
        }
        let (labels, count) = (self.labels(labels, None), counts.last().copied().unwrap_or_default());
        self.page.line(&format!("{name}_sum{labels} {sum}\n{name}_count{labels} {count}"));
    }

    fn labels(&self, values: &[&str], bound: Option<&str>) -> String {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "{}", self.metric.name);
        let mut pairs: Vec<String> = self
            .metric
            .labels
            .iter()
            .zip(values)
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        pairs.extend(bound.map(|bound| format!("le=\"{bound}\"")));
        if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    static SIZES: Metric =
        Metric { name: "sizes_bytes", kind: Kind::Histogram, labels: &["place"], help: "Sizes.\nOf all." };
    static PLAIN: Metric = Metric { name: "plain", kind: Kind::Gauge, labels: &[], help: "Plain." };

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.metric(&SIZES).add_histogram(&["a\"\\\nb"], &[0.5, 1.0], &[1, 3, 4], 6.25);
        page.metric(&PLAIN).add(&[], 1.5);
        let expected = r#"# HELP sizes_bytes Sizes. Of all.
# TYPE sizes_bytes histogram
sizes_bytes_bucket{place="a\"\\\nb",le="0.5"} 1
sizes_bytes_bucket{place="a\"\\\nb",le="1"} 3
sizes_bytes_bucket{place="a\"\\\nb",le="+Inf"} 4
sizes_bytes_sum{place="a\"\\\nb"} 6.25
sizes_bytes_count{place="a\"\\\nb"} 4
# HELP plain Plain.
# TYPE plain gauge
plain 1.5
"#;
        assert_eq!(page.into_text(), expected);
    }
}
