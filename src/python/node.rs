//! This process's part in transactions, for Python: what begins them, and takes locks and joins groups beside them.
//! What waits is a task of its own, which tells a `concurrent.futures.Future`; so it can be given up by whoever waits,
//! at Ctrl-C or where a task is cancelled.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Handle, Runtime};

use super::error::{attached, detached, to_python};
use super::group::Groups;
use super::lock::Held;
use super::logging;
use super::owned::Owned;
use super::telling::{Promise, Tellings, Wait, no_threads};
use super::transaction::Dialogue;
use crate::config::Config;
use crate::coordinator::{self, Ack, Options};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{LockName, ParticipantName};
use crate::service;

const OPEN: &str = "open";
const BEGIN: &str = "begin transaction";
const LOCK: &str = "lock";
const ELECT: &str = "stand for election";
const JOIN: &str = "join group";
const CLOSE: &str = "close";
/// Where Python gives none.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// Threads that speak to servers; the calls themselves never block one.
const THREADS: usize = 2;

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Node>()
}

/// See the module. Dropped, it is closed, and not waited for.
#[pyclass(frozen, module = "onecommit._native.node")]
struct Node {
    // None once it is closed.
    open: Owned<Mutex<Option<Open>>>,
}

struct Open {
    config: Config,
    node: coordinator::Node,
    tellings: Tellings,
    groups: Groups,
    // Last: what is dropped before may need it.
    threads: Threads,
}

#[pymethods]
impl Node {
    /// Opens it as the configuration file says; `future` is told it.
    #[staticmethod]
    fn open(py: Python<'_>, config: Option<PathBuf>, future: Py<PyAny>) -> PyResult<Wait> {
        detached(py, OPEN, || {
            let config = Config::load(config.as_deref())?;
            logging::start().map_err(|error| no_threads(OPEN, error))?;
            let threads = Threads::start()?;
            let tellings = Tellings::start(OPEN)?;
            let (promise, handle) = (Promise::new(&tellings, OPEN, future)?, threads.handle.clone());
            let opening = handle.spawn(async move {
                let opened = service::open_node(&config).await;
                promise.keep(move |py| match opened {
                    Ok(node) => Ok(Py::new(py, Node::new(config, node, tellings, threads))?.into_any()),
                    Err(error) => Err(to_python(py, error)),
                });
            });
            Ok(Wait::new(opening.abort_handle()))
        })
    }

    /// An error in a forked child.
    fn expect_own_process(&self, py: Python<'_>) -> PyResult<()> {
        attached(py, CLOSE, || self.open.get(CLOSE).map(drop))
    }

    /// Begins a transaction with a branch in each of these participants.
    fn begin(
        &self,
        py: Python<'_>,
        participants: Vec<String>,
        isolation: Option<&str>,
        ack: &str,
        deadline_ms: Option<u64>,
    ) -> PyResult<Dialogue> {
        self.using(py, BEGIN, |Open { threads, node, tellings, .. }| {
            let names =
                participants.iter().map(|name| name.parse()).collect::<Result<Vec<ParticipantName>>>()?;
            let options = Options {
                isolation: isolation.map(str::parse).transpose()?.unwrap_or_default(),
                ack: parse_ack(ack)?,
                deadline: deadline_ms.map(Duration::from_millis),
            };
            let _entered = threads.handle.enter();
            Ok(Dialogue::new(node.begin(&names, options)?, threads.handle.clone(), tellings.clone()))
        })
    }

    /// Joins a group; `future` is told what has joined. Where it was cancelled meanwhile, that leaves again.
    fn group(
        &self,
        py: Python<'_>,
        name: &str,
        member: String,
        data: Vec<u8>,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        self.using(py, JOIN, |Open { config, groups, .. }| {
            groups.join(config.clone(), name.parse()?, (member, data), future)
        })
    }

    /// Waits for a lock, or (`leads`) for being elected; `future` is told what is held.
    fn lock(
        &self,
        py: Python<'_>,
        name: &str,
        leads: bool,
        timeout_ms: Option<u64>,
        future: Py<PyAny>,
    ) -> PyResult<Wait> {
        let operation = if leads { ELECT } else { LOCK };
        self.using(py, operation, |Open { threads, node, tellings, .. }| {
            let (name, timeout) = (name.parse::<LockName>()?, timeout_ms.map(Duration::from_millis));
            let (tellings, handle) = (tellings.clone(), threads.handle.clone());
            let promise = Promise::new(&tellings, operation, future)?;
            let waiting: Pin<Box<dyn Future<Output = _> + Send>> = match leads {
                true => Box::pin(node.lead(&name, timeout)),
                false => Box::pin(node.lock(&name, timeout.unwrap_or(LOCK_LIMIT))),
            };
            let waiting = threads.handle.spawn(async move {
                let held = waiting.await;
                promise.keep(move |py| match held {
                    Ok(held) => Ok(Py::new(py, Held::new(held, handle, tellings))?.into_any()),
                    Err(error) => Err(to_python(py, error)),
                });
            });
            Ok(Wait::new(waiting.abort_handle()))
        })
    }

    /// Begins nothing more, and tells `future` once it is closed; what is prepared by then is left to whoever recovers.
    fn close(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        attached(py, CLOSE, || {
            let open = self.open.get(CLOSE)?.lock().unwrap_or_else(PoisonError::into_inner).take();
            let open = open.ok_or_else(|| closed(CLOSE))?;
            let promise = Promise::new(&open.tellings, CLOSE, future)?;
            open.close(move || promise.keep(|py| Ok(py.None())));
            Ok(())
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // In a forked child it is the parent's.
        let Ok(open) = self.open.get(CLOSE) else { return };
        if let Some(open) = open.lock().unwrap_or_else(PoisonError::into_inner).take() {
            open.close(|| {});
        }
    }
}

impl Open {
    fn close(self, is_closed: impl FnOnce() + Send + 'static) {
        let Open { node, groups, threads, .. } = self;
        let handle = threads.handle.clone();
        handle.spawn(async move {
            tokio::join!(node.close(), groups.close());
            is_closed();
            // Whoever waits for a lock waits no more, either.
            drop(threads);
        });
    }
}

impl Node {
    fn new(config: Config, node: coordinator::Node, tellings: Tellings, threads: Threads) -> Self {
        let leave_limit = Duration::from_millis(config.coordinator.request_timeout_ms);
        let groups = Groups::new(threads.handle.clone(), tellings.clone(), leave_limit);
        Node { open: Owned::new(Mutex::new(Some(Open { config, node, tellings, groups, threads }))) }
    }

    fn using<T>(
        &self,
        py: Python<'_>,
        operation: &'static str,
        body: impl FnOnce(&Open) -> Result<T>,
    ) -> PyResult<T> {
        attached(py, operation, || {
            let open = self.open.get(operation)?.lock().unwrap_or_else(PoisonError::into_inner);
            body(open.as_ref().ok_or_else(|| closed(operation))?)
        })
    }
}

/// Dropped, their tasks are dropped and not waited for: that may be on one of themselves, or wherever Python collects
/// its garbage.
struct Threads {
    handle: Handle,
    // None once they are dropped.
    runtime: Option<Runtime>,
}

impl Threads {
    fn start() -> Result<Self> {
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let started = threads.worker_threads(THREADS).thread_name("onecommit").enable_all().build();
        let runtime = started.map_err(|error| no_threads(OPEN, error))?;
        Ok(Threads { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, operation, "it is closed: open it again")
}

fn parse_ack(text: &str) -> Result<Ack> {
    match text {
        "applied" => Ok(Ack::Applied),
        "decided" => Ok(Ack::Decided),
        _ => {
            let error = Error::new(ErrorKind::Invalid, BEGIN, "ack is \"applied\" or \"decided\"");
            Err(error.with("ack", format!("{text:?}")))
        }
    }
}
