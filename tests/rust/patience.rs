//! How long the tests wait. A machine may stand still for half a minute, longer than a backend waits
//! for its server: what was not answered is asked again.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use onecommit::{Error, Result};

/// A condition that does not come true within this time never does.
pub const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

/// The answer to a request, which is repeated while the same request may succeed later.
pub async fn answered<T>(mut request: impl AsyncFnMut() -> Result<T>) -> T {
    let began = Instant::now();
    loop {
        match request().await {
            Ok(answer) => return answer,
            Err(error) => expect_an_answer_after(&error, began),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks until the answer is as expected.
pub async fn until<T: Debug>(
    what: &str,
    mut request: impl AsyncFnMut() -> Result<T>,
    expected: impl Fn(&T) -> bool,
) -> T {
    let began = Instant::now();
    loop {
        let answer = answered(&mut request).await;
        if expected(&answer) {
            return answer;
        }
        assert!(began.elapsed() < LIMIT, "{what}, but it never came: {answer:#?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same as [`answered`] for a request that blocks.
pub fn answered_blocking<T>(mut request: impl FnMut() -> Result<T>) -> T {
    let began = Instant::now();
    loop {
        match request() {
            Ok(answer) => return answer,
            Err(error) => expect_an_answer_after(&error, began),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Begins a case anew that a machine that stood still has spoilt, of which it says `None`. What spoils it every time is
/// something else.
pub async fn anew<T>(times: usize, mut case: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..times {
        if let Some(done) = case().await {
            return done;
        }
    }
    panic!("spoilt {times} times: no machine stands still that often");
}

/// The same as [`anew`] for a case that blocks.
pub fn anew_blocking<T>(times: usize, case: impl FnMut() -> Option<T>) -> T {
    let done = std::iter::repeat_with(case).take(times).flatten().next();
    done.unwrap_or_else(|| panic!("spoilt {times} times: no machine stands still that often"))
}

fn expect_an_answer_after(error: &Error, began: Instant) {
    assert!(error.is_retriable() && began.elapsed() < LIMIT, "{error}");
}
