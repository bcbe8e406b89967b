//! Membership in a group, for Python. Who waits does so without the GIL, for a limited time; the Python half waits
//! again, so that Ctrl-C and a cancelled task are heard.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::error::{attached, detached};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::service::{GroupView, Membership};

const OPERATION: &str = "watch group";

/// The ids and names of members, and what they say of themselves; before them, which one this is.
type View = (Option<String>, Vec<(String, String, Vec<u8>)>);

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Group>()
}

/// One membership.
#[pyclass(frozen, module = "onecommit._native.group")]
pub(super) struct Group {
    handle: Handle,
    // None once it has left.
    membership: Mutex<Option<Membership>>,
    known: Arc<Known>,
}

/// What is known, told to threads that know no async runtime.
#[derive(Default)]
struct Known {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    view: GroupView,
    is_new: bool,
    /// Nothing is known any more: it has left, or the runtime has ended.
    is_over: bool,
}

/// Says that nothing is known any more, however the one ends who told.
struct Telling(Arc<Known>);

impl Group {
    /// Joins. In the runtime of `handle` it is kept a member.
    pub(super) fn join(
        config: &Config,
        handle: Handle,
        (name, member, data): (&str, &str, &[u8]),
    ) -> Result<Self> {
        let name = name.parse()?;
        let mut membership = handle.block_on(Membership::join(config, &name, member, data))?;
        let known = Arc::new(Known::default());
        known.state().view = membership.view();
        handle.spawn(tell(membership.watch(), Telling(Arc::clone(&known))));
        Ok(Group { handle, membership: Mutex::new(Some(membership)), known })
    }
}

#[pymethods]
impl Group {
    /// What is known now.
    fn view(&self, py: Python<'_>) -> PyResult<View> {
        attached(py, OPERATION, || {
            let mut state = self.known.state();
            state.is_new = false;
            Ok(as_view(&state.view))
        })
    }

    /// Waits until something else is known than was told last, for this long at most; None where it is not.
    fn changed(&self, py: Python<'_>, limit_ms: u64) -> PyResult<Option<View>> {
        detached(py, OPERATION, || {
            let state = self.known.state();
            let waits = |state: &mut State| !state.is_new && !state.is_over;
            let limit = Duration::from_millis(limit_ms);
            let waited = self.known.news.wait_timeout_while(state, limit, waits);
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.is_new {
                state.is_new = false;
                return Ok(Some(as_view(&state.view)));
            }
            if state.is_over { Err(left()) } else { Ok(None) }
        })
    }

    /// Says something else of this member, to all.
    fn say(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        attached(py, "join group", || match &*self.membership() {
            Some(membership) => membership.say(data),
            None => Err(left()),
        })
    }

    /// Leaves; others are told at once.
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        let Some(membership) = self.membership().take() else { return Ok(()) };
        if self.known.state().is_over {
            return Ok(());
        }
        detached(py, "leave group", || self.handle.block_on(membership.leave()))
    }
}

impl Group {
    fn membership(&self) -> MutexGuard<'_, Option<Membership>> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.news.notify_all();
    }
}

async fn tell(mut views: watch::Receiver<GroupView>, telling: Telling) {
    while views.changed().await.is_ok() {
        let view = views.borrow_and_update().clone();
        let mut state = telling.0.state();
        if state.view != view {
            state.view = view;
            state.is_new = true;
        }
        drop(state);
        telling.0.news.notify_all();
    }
}

fn as_view(view: &GroupView) -> View {
    let members = view.members.iter();
    let members = members.map(|one| (one.id.to_string(), one.name.clone(), one.data.clone())).collect();
    (view.me.map(|id| id.to_string()), members)
}

fn left() -> Error {
    let why = "this member has left the group, or onecommit was closed: join again";
    Error::new(ErrorKind::Invalid, OPERATION, why)
}
