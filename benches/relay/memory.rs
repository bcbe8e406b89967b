//! How much memory the relay takes at most, over backlogs of small and of the largest messages.

use crate::backlog::Table;
use crate::figure::Budget::AtMost;
use crate::figure::Figure;
use crate::ours::Installed;
use crate::run::{check_count, wait_until_delivered};
use crate::{Options, Result, Servers};

/// Bytes of each value; with key and headers the largest is what librdkafka takes with its defaults.
const VALUE_BYTES: [usize; 4] = [100, 1000, 100_000, 999_000];

/// One backlog for each size.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for value_bytes in VALUE_BYTES {
        let messages = options.memory_mb * 1_000_000 / value_bytes as u64;
        let installed = Installed::create(servers, options).await?;
        installed.database.fill_sized(Table::Outbox, &installed.topic, messages, value_bytes).await?;
        let done = wait_until_delivered(servers, &installed.topic, messages, installed.relay()?)?;
        let peak_rss_mb = done.process.peak_rss_mb()?;
        done.process.stop()?;
        check_count(servers, &installed.topic, messages)?;
        installed.remove(servers).await?;
        let what = format!("relay, peak memory over {messages} messages of {value_bytes} bytes, MB");
        figures.push(Figure::new(what, AtMost(64.0), vec![peak_rss_mb]));
    }
    Ok(figures)
}
