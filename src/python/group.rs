//! Membership in a group, for Python. What waits is a task of its own, which tells a `concurrent.futures.Future`.
//!
//! Promises that nobody stays a member whom Python does not know any more: who was cancelled while it joined leaves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::error::{attached, to_python};
use super::owned::Owned;
use super::telling::{Promise, Tellings, Wait};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::id::GroupName;
use crate::service::{GroupView, Membership};

const JOIN: &str = "join group";
const LEAVE: &str = "leave group";
const WATCH: &str = "watch group";

/// The ids and names of members, and what they say of themselves; before them, which one this is, and before that
/// the view's number.
type View = (u64, Option<String>, Vec<(String, String, Vec<u8>)>);

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Group>()
}

/// Where members of groups come from.
#[derive(Clone)]
pub(super) struct Groups {
    handle: Handle,
    tellings: Tellings,
    /// Who joins or leaves has a receiver meanwhile.
    moving: watch::Sender<()>,
    members: Arc<Mutex<Vec<Weak<Member>>>>,
    /// So long a close waits at most for those who are about to leave.
    leave_limit: Duration,
}

/// None once it has left.
type Member = Mutex<Option<Membership>>;

impl Groups {
    pub(super) fn new(handle: Handle, tellings: Tellings, leave_limit: Duration) -> Self {
        Groups { handle, tellings, moving: watch::Sender::default(), members: Arc::default(), leave_limit }
    }

    /// Joins, and tells `future` the [`Group`].
    pub(super) fn join(
        &self,
        config: Config,
        name: GroupName,
        (member, data): (String, Vec<u8>),
        future: Py<PyAny>,
    ) -> Result<()> {
        let (groups, moving) = (self.clone(), self.moving.subscribe());
        let promise = Promise::new(&self.tellings, JOIN, future)?;
        self.handle.spawn(async move {
            let joined = Membership::join(&config, &name, &member, &data).await;
            promise.keep(move |py| {
                let _moving = moving;
                match joined {
                    Ok(membership) => Ok(Py::new(py, Group::new(groups, membership))?.into_any()),
                    Err(error) => Err(to_python(py, error)),
                }
            });
        });
        Ok(())
    }

    /// All leave, and it is waited until nobody joins or leaves any more: others would see members until their sessions
    /// with the store have timed out, and ZooKeeper's client panics in who watches while its session's task is dropped.
    pub(super) async fn close(&self) {
        let all_have_left = async {
            loop {
                let members = std::mem::take(&mut *self.members());
                members.iter().filter_map(Weak::upgrade).for_each(|member| self.leave(&member));
                self.moving.closed().await;
                // Who was about to join may have done so.
                if self.members().is_empty() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(self.leave_limit, all_have_left).await;
    }

    fn leave(&self, member: &Member) {
        let Some(membership) = lock(member).take() else { return };
        let moving = self.moving.subscribe();
        self.handle.spawn(async move {
            let _moving = moving;
            let _ = membership.leave().await;
        });
    }

    fn members(&self) -> MutexGuard<'_, Vec<Weak<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(member: &Member) -> MutexGuard<'_, Option<Membership>> {
    member.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One membership.
#[pyclass(frozen, module = "onecommit._native.group")]
struct Group(Owned<Own>);

/// Dropped, it leaves.
struct Own {
    groups: Groups,
    member: Arc<Member>,
    known: watch::Receiver<Known>,
}

/// What is known, and how many times it has changed.
#[derive(Default)]
struct Known {
    number: u64,
    view: GroupView,
}

impl Group {
    fn new(groups: Groups, mut membership: Membership) -> Self {
        let (telling, known) = watch::channel(Known { number: 0, view: membership.view() });
        groups.handle.spawn(tell(membership.watch(), telling));
        let member = Arc::new(Mutex::new(Some(membership)));
        let mut members = groups.members();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&member));
        drop(members);
        Group(Owned::new(Own { groups, member, known }))
    }
}

impl Own {
    /// Nothing is known any more: it has left, or the runtime has ended.
    fn is_over(&self) -> bool {
        self.known.has_changed().is_err()
    }
}

#[pymethods]
impl Group {
    /// What is known now.
    fn view(&self, py: Python<'_>) -> PyResult<View> {
        attached(py, WATCH, || Ok(as_view(&self.0.get(WATCH)?.known.borrow())))
    }

    /// Tells `future` as soon as something else is known than the view of this number; None where it is not within
    /// the limit.
    fn changed(&self, py: Python<'_>, seen: u64, limit_ms: Option<u64>, future: Py<PyAny>) -> PyResult<Wait> {
        attached(py, WATCH, || {
            let own = self.0.get(WATCH)?;
            let mut known = own.known.clone();
            if own.is_over() && known.borrow().number == seen {
                return Err(left());
            }
            let promise = Promise::new(&own.groups.tellings, WATCH, future)?;
            let waiting = own.groups.handle.spawn(async move {
                let news = known.wait_for(|known| known.number != seen);
                let told = match limit_ms {
                    Some(limit) => tokio::time::timeout(Duration::from_millis(limit), news).await.ok(),
                    None => Some(news.await),
                };
                let view = told.map(|news| news.map(|known| as_view(&known)).map_err(|_| left()));
                promise.keep(move |py| match view.transpose() {
                    Ok(view) => Ok(view.into_pyobject(py)?.into_any().unbind()),
                    Err(error) => Err(to_python(py, error)),
                });
            });
            Ok(Wait::new(waiting.abort_handle()))
        })
    }

    /// Says something else of this member, to all.
    fn say(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        attached(py, JOIN, || match &*lock(&self.0.get(JOIN)?.member) {
            Some(membership) => membership.say(data),
            None => Err(left()),
        })
    }

    /// Leaves; others are told at once, and `future` when it is done.
    fn leave(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        attached(py, LEAVE, || {
            let own = self.0.get(LEAVE)?;
            let promise = Promise::new(&own.groups.tellings, LEAVE, future)?;
            let Some(membership) = lock(&own.member).take().filter(|_| !own.is_over()) else {
                promise.keep(|py| Ok(py.None()));
                return Ok(());
            };
            let moving = own.groups.moving.subscribe();
            own.groups.handle.spawn(async move {
                let left = membership.leave().await;
                drop(moving);
                promise.keep(move |py| match left {
                    Ok(()) => Ok(py.None()),
                    Err(error) => Err(to_python(py, error)),
                });
            });
            Ok(())
        })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.groups.leave(&self.member);
    }
}

async fn tell(mut views: watch::Receiver<GroupView>, telling: watch::Sender<Known>) {
    while views.changed().await.is_ok() {
        let view = views.borrow_and_update().clone();
        telling.send_if_modified(|known| {
            let is_news = known.view != view;
            if is_news {
                *known = Known { number: known.number + 1, view };
            }
            is_news
        });
    }
}

fn as_view(known: &Known) -> View {
    let members = known.view.members.iter();
    let members = members.map(|one| (one.id.to_string(), one.name.clone(), one.data.clone())).collect();
    (known.number, known.view.me.map(|id| id.to_string()), members)
}

fn left() -> Error {
    let why = "this member has left the group, or onecommit was closed: join again";
    Error::new(ErrorKind::Invalid, WATCH, why)
}
