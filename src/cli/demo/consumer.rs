//! The consumer: reads the topic from its beginning while everything else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::stage::{Stage, TOPIC};
use super::verdict::Keyed;
use crate::delivery::DeliveredMessage;
use crate::delivery::topic_log::TopicLogReader;
use crate::error::{Error, ErrorKind, Result};
use crate::id::MessageId;
use crate::message::ID_HEADER;

const LOOK: Duration = Duration::from_millis(50);

/// A running consumer.
pub(super) struct Consumer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<Result<Vec<Keyed>>>,
}

impl Consumer {
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        let mut reader = TopicLogReader::open(&stage.topic_log(), TOPIC, None, true)?;
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            let mut read = Vec::new();
            loop {
                match reader.next(LOOK)? {
                    Some(message) => {
                        read.push(keyed(&message)?);
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    None if stopped.load(Ordering::SeqCst) => return Ok(read),
                    None => {}
                }
            }
        });
        Ok(Consumer { stop, count, thread })
    }

    /// How many messages were read.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Reads what is still there, and returns all that was read, in order.
    pub(super) fn stop(self) -> Result<Vec<Keyed>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| Error::new(ErrorKind::Failed, "demo", "the consumer has failed"))?
    }
}

fn keyed(message: &DeliveredMessage) -> Result<Keyed> {
    let id =
        message.headers.iter().find(|(name, _)| name == ID_HEADER).and_then(|(_, value)| value.as_deref());
    let id: MessageId = std::str::from_utf8(id.unwrap_or_default()).unwrap_or_default().parse()?;
    Ok((message.key.clone().unwrap_or_default(), id))
}
