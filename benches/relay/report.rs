//! Medians, spreads and ratios, beside the budgets they are held against.

use serde_json::{Value, json};

use crate::Result;

/// One run of either.
pub(crate) struct Run {
    pub(crate) messages: u64,
    /// From the first write to the last.
    pub(crate) delivered_s: f64,
    /// Of its process, until the last write.
    pub(crate) cpu_s: f64,
    pub(crate) peak_rss_mb: f64,
    /// From the first write until the outbox was empty.
    pub(crate) pruned_s: Option<f64>,
}

impl Run {
    fn rate(&self) -> f64 {
        self.messages as f64 / self.delivered_s
    }

    fn rate_pruned(&self) -> f64 {
        self.messages as f64 / self.pruned_s.unwrap_or(self.delivered_s)
    }

    fn cpu_us(&self) -> f64 {
        self.cpu_s * 1e6 / self.messages as f64
    }
}

/// Latencies from commit to consumer, and the idle relay.
pub(crate) struct Latency {
    pub(crate) messages: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) first_p50_ms: f64,
    pub(crate) first_max_ms: f64,
    pub(crate) idle_cpu_percent: f64,
}

/// The longest wait of a message, in seconds, in each round in which a relay was killed.
#[derive(Default)]
pub(crate) struct Takeover {
    pub(crate) beside_s: Vec<f64>,
    pub(crate) restarted_s: Vec<f64>,
}

/// Everything measured.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) ours: Vec<Run>,
    pub(crate) bare: Vec<Run>,
    pub(crate) latency: Option<Latency>,
    pub(crate) takeover: Takeover,
}

/// The value below which a share of the ascending values lies; 0 where there are none.
pub(crate) fn percentile(ascending: &[f64], share: f64) -> f64 {
    let last = ascending.len().saturating_sub(1);
    ascending.get((last as f64 * share).round() as usize).copied().unwrap_or(0.0)
}

/// A figure over all rounds.
struct Figure {
    name: &'static str,
    values: Vec<f64>,
    budget: &'static str,
}

impl Figure {
    fn new(name: &'static str, budget: &'static str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Figure { name, values, budget }
    }

    fn median(&self) -> f64 {
        let (lower, upper) = ((self.values.len().max(1) - 1) / 2, self.values.len() / 2);
        match (self.values.get(lower), self.values.get(upper)) {
            (Some(lower), Some(upper)) => (lower + upper) / 2.0,
            _ => 0.0,
        }
    }
}

impl Report {
    /// The round that just ended.
    pub(crate) fn print_round(&self, round: usize) -> Result<()> {
        let (ours, bare) = self.ours.last().zip(self.bare.last()).ok_or("no round")?;
        eprintln!(
            "round {}: ours {:.0}/s, {:.0}/s pruned, {:.2} µs CPU, {:.0} MB; bare {:.0}/s, {:.2} µs CPU; \
             ratio {:.2}, pruned {:.2}, CPU {:.2}",
            round + 1,
            ours.rate(),
            ours.rate_pruned(),
            ours.cpu_us(),
            ours.peak_rss_mb,
            bare.rate(),
            bare.cpu_us(),
            ours.rate() / bare.rate(),
            ours.rate_pruned() / bare.rate(),
            ours.cpu_us() / bare.cpu_us(),
        );
        Ok(())
    }

    /// Everything, as a table or as JSON.
    pub(crate) fn print(&self, json: bool) -> Result<()> {
        let figures = self.figures();
        if json {
            println!("{}", as_json(&figures));
            return Ok(());
        }
        println!("{:36} {:>10} {:>10} {:>10}   budget", "", "median", "least", "most");
        for figure in &figures {
            let (least, most) = (percentile(&figure.values, 0.0), percentile(&figure.values, 1.0));
            println!(
                "{:36} {:>10.2} {least:>10.2} {most:>10.2}   {}",
                figure.name,
                figure.median(),
                figure.budget
            );
        }
        Ok(())
    }

    fn figures(&self) -> Vec<Figure> {
        let of = |runs: &[Run], figure: fn(&Run) -> f64| runs.iter().map(figure).collect::<Vec<f64>>();
        let ratio = |figure: fn(&Run, &Run) -> f64| {
            self.ours.iter().zip(&self.bare).map(|(ours, bare)| figure(ours, bare)).collect::<Vec<f64>>()
        };
        let mut figures = vec![
            Figure::new("relay_per_s", "", of(&self.ours, Run::rate)),
            Figure::new("relay_pruned_per_s", "", of(&self.ours, Run::rate_pruned)),
            Figure::new("bare_per_s", "", of(&self.bare, Run::rate)),
            Figure::new("ratio", "0.8 or more", ratio(|ours, bare| ours.rate() / bare.rate())),
            Figure::new("ratio_pruned", "0.7 or more", ratio(|ours, bare| ours.rate_pruned() / bare.rate())),
            Figure::new("relay_cpu_us_per_message", "", of(&self.ours, Run::cpu_us)),
            Figure::new("bare_cpu_us_per_message", "", of(&self.bare, Run::cpu_us)),
            Figure::new("ratio_cpu", "1.3 or less", ratio(|ours, bare| ours.cpu_us() / bare.cpu_us())),
            Figure::new("relay_peak_rss_mb", "64 or less", of(&self.ours, |run| run.peak_rss_mb)),
        ];
        if let Some(latency) = &self.latency {
            figures.extend([
                Figure::new("latency_messages", "", vec![latency.messages as f64]),
                Figure::new("latency_p50_ms", "10 or less", vec![latency.p50_ms]),
                Figure::new("latency_p99_ms", "40 or less", vec![latency.p99_ms]),
                Figure::new("latency_max_ms", "", vec![latency.max_ms]),
                Figure::new("latency_first_after_idle_p50_ms", "30 or less", vec![latency.first_p50_ms]),
                Figure::new("latency_first_after_idle_max_ms", "", vec![latency.first_max_ms]),
                Figure::new("idle_cpu_percent", "0.5 or less", vec![latency.idle_cpu_percent]),
            ]);
        }
        if !self.takeover.beside_s.is_empty() {
            figures.extend([
                Figure::new("killed_beside_another_s", "5 or less", self.takeover.beside_s.clone()),
                Figure::new("killed_and_restarted_s", "2 or less", self.takeover.restarted_s.clone()),
            ]);
        }
        figures
    }
}

fn as_json(figures: &[Figure]) -> Value {
    let all = figures.iter().map(|figure| {
        let (least, most) = (percentile(&figure.values, 0.0), percentile(&figure.values, 1.0));
        (figure.name.to_string(), json!({"median": figure.median(), "least": least, "most": most}))
    });
    Value::Object(all.collect())
}
