//! One run over a backlog that is committed already, by a relay or a poller in a process of its
//! own: how fast it is delivered, and with how much CPU and memory.

use crate::process::{Process, cpu_seconds};
use crate::{Result, Servers, kafka};

/// What one run took.
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
    pub(crate) fn rate(&self) -> f64 {
        self.messages as f64 / self.delivered_s
    }

    pub(crate) fn rate_pruned(&self) -> f64 {
        self.messages as f64 / self.pruned_s.unwrap_or(self.delivered_s)
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_s * 1e6 / self.messages as f64
    }
}

/// A process that has delivered everything and still runs.
pub(crate) struct Delivered {
    pub(crate) process: Process,
    pub(crate) written: kafka::Written,
    /// Until the last write.
    pub(crate) cpu_s: f64,
}

/// Waits until the process has written everything. Blocks its thread.
pub(crate) fn wait_until_delivered(
    servers: &Servers,
    topic: &str,
    messages: u64,
    mut process: Process,
) -> Result<Delivered> {
    let pid = process.pid();
    let mut cpu_s = 0.0;
    let written = kafka::wait_until_written(
        &servers.kafka,
        topic,
        messages,
        || process.check_alive(),
        || {
            cpu_s = cpu_seconds(pid)?;
            Ok(())
        },
    )?;
    Ok(Delivered { process, written, cpu_s })
}

/// Fails where a `read_committed` consumer finds another number of messages.
pub(crate) fn check_count(servers: &Servers, topic: &str, messages: u64) -> Result<()> {
    let counted = kafka::count_committed(&servers.kafka, topic)?;
    if counted == messages {
        return Ok(());
    }
    Err(format!("{counted} of {messages} messages are in {topic}").into())
}
