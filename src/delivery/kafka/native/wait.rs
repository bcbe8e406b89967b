//! librdkafka's timed waits, by the clock that only counts on.
//!
//! librdkafka waits with C11's `cnd_timedwait`, which ends at a time of the wall clock. When that was set
//! back by an hour, a wait for a millisecond lasted an hour, and with it the shard. The function here
//! takes the place of libc's wherever this crate is linked, and means the same, but for what a clock
//! that is set does to it.
//!
//! Relies on glibc (2.30 or later), whose `cnd_t` and `mtx_t` are its `pthread_cond_t` and
//! `pthread_mutex_t`. Elsewhere librdkafka's waits are as they were.

use std::ffi::{c_int, c_void};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime};

const THRD_SUCCESS: c_int = 0;
const THRD_ERROR: c_int = 2;
const THRD_TIMEDOUT: c_int = 4;

unsafe extern "C" {
    fn pthread_cond_clockwait(
        condition: *mut c_void,
        mutex: *mut c_void,
        clock: c_int,
        until: *const Timespec,
    ) -> c_int;
}

/// Waits until the condition is signalled, at most until the wall clock, as it goes now, says `until`.
///
/// # Safety
/// As C11 has it: a condition and a mutex that live, the mutex held by this thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn cnd_timedwait(
    condition: *mut c_void,
    mutex: *mut c_void,
    until: *const Timespec,
) -> c_int {
    // SAFETY: the caller's `until` points to a time.
    let until = unsafe { *until };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let end = length(clock_gettime(ClockId::Monotonic)) + length(until).saturating_sub(now);
    let Ok(end) = Timespec::try_from(end) else { return THRD_ERROR };
    // SAFETY: the caller's condition and mutex, which are those of pthreads (see the module).
    match unsafe { pthread_cond_clockwait(condition, mutex, ClockId::Monotonic as c_int, &end) } {
        0 => THRD_SUCCESS,
        error if error == Errno::TIMEDOUT.raw_os_error() => THRD_TIMEDOUT,
        _ => THRD_ERROR,
    }
}

fn length(time: Timespec) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}
