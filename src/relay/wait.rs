//! Waiting: for a stop, and for no longer than others.

use tokio::sync::watch;

/// Waits until the relay is told to stop, or nobody is left to tell it.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A random number in 0..1, so that relays which failed together don't return together.
pub(super) fn chance() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}
