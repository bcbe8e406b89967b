//! What the documents say of metrics is what the code has: the table in `docs/operation.md`, the alerts
//! beside it, and `docs/grafana.json`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::exposition::{Kind, Metric};
use super::metrics::{METRICS, render};
use crate::config::Config;
use crate::service::Observed;

const BEGIN: &str = "<!-- Made from src/admin/metrics.rs: change it there, then\n     \
                     ONECOMMIT_TEST_WRITE_DOCS=1 cargo test --lib admin::documents -->\n";
const END: &str = "<!-- end -->\n";

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

fn table() -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Metric { name, kind, labels, help } in METRICS.iter().map(|entry| &entry.metric) {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        table += &format!("| `{name}` | {} | {} | {help} |\n", kind.as_str(), labels.join(", "));
    }
    table
}

/// The metrics that a text names; `_bucket`, `_sum` and `_count` belong to a histogram's name.
fn named(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    words.filter(|word| word.starts_with("onecommit_") || word.starts_with("process_")).map(base).collect()
}

fn base(name: &str) -> &str {
    let parts = ["_bucket", "_sum", "_count"];
    let of_histogram = parts.iter().filter_map(|part| name.strip_suffix(part)).find(|base| {
        METRICS.iter().any(|entry| entry.metric.name == *base && entry.metric.kind == Kind::Histogram)
    });
    of_histogram.unwrap_or(name)
}

fn ours() -> BTreeSet<&'static str> {
    METRICS.iter().map(|entry| entry.metric.name).collect()
}

#[test]
fn the_table_of_metrics_is_the_one_made_from_the_code() {
    let path = document("operation.md");
    let page = std::fs::read_to_string(&path).expect("docs/operation.md");
    let begin = page.find(BEGIN).expect("the table's begin") + BEGIN.len();
    let end = begin + page[begin..].find(END).expect("the table's end");
    if std::env::var_os("ONECOMMIT_TEST_WRITE_DOCS").is_some_and(|value| value == "1") {
        let whole = format!("{}{}{}", &page[..begin], table(), &page[end..]);
        std::fs::write(&path, whole).expect("written");
        return;
    }
    assert_eq!(&page[begin..end], table(), "make it anew as the comment above it says");
}

#[test]
fn documents_name_no_metric_that_is_not_there() {
    for name in ["operation.md", "grafana.json"] {
        let text = std::fs::read_to_string(document(name)).expect(name);
        let named = named(&text);
        assert!(named.len() > 10, "{name} names {named:?} only");
        assert!(named.is_subset(&ours()), "{name}: {:?}", named.difference(&ours()));
    }
}

#[test]
fn the_dashboard_is_json_whose_panels_ask_for_metrics() {
    let text = std::fs::read_to_string(document("grafana.json")).expect("docs/grafana.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let queries = panels.iter().filter(|panel| panel["type"] != "row");
    for panel in queries {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let expression = target["expr"].as_str().expect("expr");
            assert!(!named(expression).is_empty(), "{expression}");
        }
    }
}

#[test]
fn every_metric_is_on_the_page_under_its_name_and_no_other() {
    let data_dir = tempfile::tempdir().expect("folder");
    let mut config = Config::from_toml("", []).expect("configuration");
    config.data_dir = data_dir.path().to_path_buf();
    let observed = Observed::new(&config).expect("an outbox");
    let page = render(&observed);
    let heads: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(heads, METRICS.iter().map(|entry| entry.metric.name).collect::<Vec<_>>());
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        assert!(ours().contains(base(name)), "{line}");
    }
}

#[test]
fn names_tell_their_units() {
    for Metric { name, kind, .. } in METRICS.iter().map(|entry| &entry.metric) {
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert!(name.starts_with("onecommit_") || name.starts_with("process_"), "{name}");
        assert!(!name.ends_with("_ms"), "{name}");
    }
}
