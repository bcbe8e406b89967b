//! Figures: median and spread over all rounds, beside the budget they are held against; as a table
//! in Markdown, or as JSON.

use serde_json::{Value, json};

/// What a figure has to reach.
#[derive(Clone, Copy)]
pub(crate) enum Budget {
    None,
    AtLeast(f64),
    AtMost(f64),
}

/// A figure over all rounds.
pub(crate) struct Figure {
    what: String,
    budget: Budget,
    values: Vec<f64>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, budget: Budget, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Figure { what: what.into(), budget, values }
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.values)
    }

    fn budget(&self) -> String {
        match self.budget {
            Budget::None => String::new(),
            Budget::AtLeast(limit) => format!("{limit} or more"),
            Budget::AtMost(limit) => format!("{limit} or less"),
        }
    }

    /// Whether the median is within the budget; None where there is none.
    fn reached(&self) -> Option<bool> {
        match self.budget {
            Budget::None => None,
            Budget::AtLeast(limit) => Some(self.median() >= limit),
            Budget::AtMost(limit) => Some(self.median() <= limit),
        }
    }

    fn row(&self) -> String {
        let reached = self.reached().map_or("", |reached| if reached { "yes" } else { "**no**" });
        format!(
            "| {} | {} | {} | {} .. {} | {reached} |",
            self.what,
            self.budget(),
            shown(self.median()),
            shown(percentile(&self.values, 0.0)),
            shown(percentile(&self.values, 1.0)),
        )
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "budget": self.budget(),
            "median": self.median(),
            "least": percentile(&self.values, 0.0),
            "most": percentile(&self.values, 1.0),
            "reached": self.reached(),
        })
    }
}

/// The table for docs/performance.md.
pub(crate) fn markdown(figures: &[Figure]) -> String {
    let head = "| what | budget | median | least .. most | reached |\n|---|---|---:|---:|---|";
    let rows = figures.iter().map(Figure::row);
    std::iter::once(head.to_string()).chain(rows).collect::<Vec<_>>().join("\n")
}

pub(crate) fn as_json(figures: &[Figure]) -> Value {
    figures.iter().map(Figure::json).collect()
}

/// The value below which a share of the ascending values lies; 0 where there are none.
pub(crate) fn percentile(ascending: &[f64], share: f64) -> f64 {
    let last = ascending.len().saturating_sub(1);
    ascending.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

/// Of ascending values; 0 where there are none.
pub(crate) fn median(ascending: &[f64]) -> f64 {
    let (lower, upper) = ((ascending.len().max(1) - 1) / 2, ascending.len() / 2);
    match (ascending.get(lower), ascending.get(upper)) {
        (Some(lower), Some(upper)) => (lower + upper) / 2.0,
        _ => 0.0,
    }
}

/// Three digits that count, and no fraction of what is large.
fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
