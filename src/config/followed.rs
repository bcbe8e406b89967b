//! A value that may change while it is in use.

use tokio::sync::watch;

/// Whoever holds it reads the value as it is now. It was made from a value that never changes, or follows what
/// somebody else sends.
#[derive(Clone, Debug)]
pub struct Followed<T>(watch::Receiver<T>);

impl<T> Followed<T> {
    /// What is sent from now on, and meanwhile `first`. Whoever sends knows by [`watch::Sender::closed`] that
    /// nobody follows any more.
    pub fn new(first: T) -> (watch::Sender<T>, Self) {
        let (sender, receiver) = watch::channel(first);
        (sender, Followed(receiver))
    }

    /// The value as it is now. Not to be held for long: who sends waits meanwhile.
    pub fn now(&self) -> watch::Ref<'_, T> {
        self.0.borrow()
    }
}

impl<T> From<T> for Followed<T> {
    fn from(value: T) -> Self {
        Followed::new(value).1
    }
}
