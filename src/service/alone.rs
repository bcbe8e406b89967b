//! Waits until no relay lives beside the one that asks: two that adopt or remove, or a relay beside one
//! that does, would get in each other's way.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::id::RelayId;
use crate::relay::Keeper;

/// Dead relays count as living for the timeout of a lease; for so many of them it is waited.
const TIMEOUTS_WAITED: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until the keeper's relay, which is `me`, is the only one that lives; `Refused` where others
/// go on living.
pub(super) async fn wait_until_alone(keeper: &Keeper, me: RelayId, operation: &'static str) -> Result<()> {
    let began = Instant::now();
    loop {
        let seen = keeper.seen.borrow().clone();
        seen.check()?;
        let others: Vec<String> =
            seen.view.live.iter().filter(|relay| **relay != me).map(ToString::to_string).collect();
        if seen.is_fresh() && others.is_empty() {
            return Ok(());
        }
        if began.elapsed() > seen.timeout * TIMEOUTS_WAITED {
            if !seen.is_fresh() {
                let why = "the leases can't be kept: their store does not answer";
                return Err(Error::new(ErrorKind::Unreachable, operation, why));
            }
            return Err(living(operation, &others.join(", ")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is said where relays live.
pub(super) fn living(operation: &'static str, relays: &str) -> Error {
    let why = "relays of this participant live: stop them, and run this again";
    Error::new(ErrorKind::Refused, operation, why).with("relays", relays)
}
