//! Transactions over several databases, for Python: what runs on the caller's own connections is said
//! here and sent there. Nothing waits with the GIL held; what takes time is done in threads of its own,
//! and told by a `concurrent.futures.Future`, which blocking and asynchronous callers can wait for.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{attached, to_python};
use super::owned::Owned;
use super::telling::{Promise, Tellings, Wait};
use crate::coordinator::{Answer, Dialogue as Running, Failure, Finished, Next};
use crate::error::{Error, ErrorKind};
use crate::id::LockName;
use crate::message::{Header, Message};
use crate::protocol::transaction::Protocol;

const BEGIN: &str = "begin transaction";
const END: &str = "end transaction";
const LOCK: &str = "lock";
const PUBLISH: &str = "publish";

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Dialogue>()
}

/// One transaction.
#[pyclass(frozen, module = "onecommit._native.transaction")]
pub(super) struct Dialogue {
    #[pyo3(get)]
    id: String,
    own: Owned<Own>,
}

struct Own {
    handle: tokio::runtime::Handle,
    tellings: Tellings,
    running: Arc<tokio::sync::Mutex<Running>>,
    /// Until when answers to what is to be sent are waited for. Beside the rest, on which a lock may be waited for.
    wait_until: Arc<Mutex<Instant>>,
    /// True from when the caller wants its end: who waits for a lock waits no more.
    is_ending: watch::Sender<bool>,
    /// What is prepared may be committed by others, whatever becomes of this process.
    is_committing: AtomicBool,
}

/// What was answered on a connection: a row, or a SQLSTATE (None: the connection is lost) and a text.
#[derive(FromPyObject)]
enum Answered {
    // First: a tuple would pass for a row, too.
    Failed((Option<String>, String)),
    Row(Vec<Option<String>>),
}

#[pymethods]
impl Dialogue {
    /// An error in a forked child.
    fn expect_own_process(&self, py: Python<'_>) -> PyResult<()> {
        attached(py, END, || self.own.get(END).map(drop))
    }

    /// Keeps a message until the commit; returns its id.
    #[pyo3(signature = (topic, key, value, headers, partition, outbox))]
    #[allow(clippy::too_many_arguments, reason = "as Python's own publish has them")]
    fn publish(
        &self,
        py: Python<'_>,
        topic: &str,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<Header>,
        partition: Option<i32>,
        outbox: Option<&str>,
    ) -> PyResult<String> {
        attached(py, PUBLISH, || {
            let Own { running, .. } = self.own.get(PUBLISH)?;
            let message = Message::from_parts(topic, key, value, headers, partition)?;
            let outbox = outbox.map(str::parse).transpose()?;
            let Ok(mut running) = running.try_lock() else {
                let why = "another thread or task ends the transaction, or waits for a lock of it: publish before or \
                           behind that";
                return Err(Error::new(ErrorKind::Invalid, PUBLISH, why));
            };
            running.publish(message, outbox.as_ref()).map(|id| id.to_string())
        })
    }

    /// Takes a lock, and waits for it; `future` is told its number.
    fn lock(&self, py: Python<'_>, name: &str, timeout_ms: Option<u64>, future: Py<PyAny>) -> PyResult<Wait> {
        attached(py, LOCK, || {
            let Own { handle, tellings, running, is_ending, .. } = self.own.get(LOCK)?;
            let (name, timeout) = (name.parse::<LockName>()?, timeout_ms.map(Duration::from_millis));
            let (running, promise) = (Arc::clone(running), Promise::new(tellings, LOCK, future)?);
            let mut is_ending = is_ending.subscribe();
            let waiting = handle.spawn(async move {
                let lock = async { running.lock().await.lock(&name, timeout).await };
                let locked = tokio::select! {
                    biased;
                    _ = is_ending.wait_for(|is_ending| *is_ending) => {
                        Err(Error::new(ErrorKind::Invalid, LOCK, "the transaction is not open any more: it was ended"))
                    }
                    locked = lock => locked,
                };
                promise.keep(move |py| match locked {
                    Ok(number) => Ok(number.into_pyobject(py)?.into_any().unbind()),
                    Err(error) => Err(to_python(py, error)),
                });
            });
            Ok(Wait::new(waiting.abort_handle()))
        })
    }

    /// Goes on, with the answers to what was to be sent, until something is to be sent again, the
    /// caller's own statements are to run, or it is over. Returned is which, as a tuple of one; or None,
    /// and `future` is told.
    fn advance(
        &self,
        py: Python<'_>,
        answers: Option<Vec<Answered>>,
        future: Py<PyAny>,
    ) -> PyResult<Option<(Py<PyAny>,)>> {
        let answers = answers.map(|answers| answers.into_iter().map(Answer::from).collect());
        self.go_on(py, answers.map_or(Input::None, Input::Answers), future)
    }

    /// The caller wants it committed.
    fn commit(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<Option<(Py<PyAny>,)>> {
        self.go_on(py, Input::Commit, future)
    }

    /// The caller wants it rolled back.
    fn roll_back(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<Option<(Py<PyAny>,)>> {
        self.go_on(py, Input::RollBack, future)
    }

    /// What was sent is not waited for any more.
    fn interrupt(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<Option<(Py<PyAny>,)>> {
        self.go_on(py, Input::Interrupt, future)
    }

    /// How many seconds answers to what is to be sent are waited for.
    fn seconds_left(&self) -> f64 {
        let Ok(Own { wait_until, .. }) = self.own.get(END) else { return 0.0 };
        let until = *wait_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.saturating_duration_since(Instant::now()).as_secs_f64()
    }
}

enum Input {
    None,
    Answers(Vec<Answer>),
    Commit,
    RollBack,
    Interrupt,
}

impl Own {
    /// What a caller is told whose node is closed by another thread meanwhile.
    fn closed_meanwhile(&self, id: &str) -> Error {
        if self.is_committing.load(Ordering::SeqCst) {
            let why = "it is not known whether it is committed: onecommit was closed meanwhile, and others settle it";
            return Error::new(ErrorKind::InDoubt, END, why).with("transaction", id);
        }
        Error::new(ErrorKind::Invalid, END, "rolled back: onecommit was closed meanwhile: open it again")
    }
}

impl Dialogue {
    pub(super) fn new(running: Running, handle: tokio::runtime::Handle, tellings: Tellings) -> Self {
        let id = running.id().to_string();
        let own = Own {
            handle,
            tellings,
            wait_until: Arc::new(Mutex::new(running.wait_until())),
            running: Arc::new(tokio::sync::Mutex::new(running)),
            is_ending: watch::Sender::new(false),
            is_committing: AtomicBool::new(false),
        };
        Dialogue { id, own: Owned::new(own) }
    }

    /// What comes of it at once, as a tuple of one; None where it has to be waited for, and `future` is told.
    fn go_on(&self, py: Python<'_>, input: Input, future: Py<PyAny>) -> PyResult<Option<(Py<PyAny>,)>> {
        let operation = if matches!(input, Input::None) { BEGIN } else { END };
        let own = match (self.own.get(operation), &input) {
            (Ok(own), _) => own,
            // In a forked child: what ends the caller's block there passes through, and the parent's goes on.
            (Err(_), Input::RollBack) => return Ok(Some((PyTuple::empty(py).into_any().unbind(),))),
            (Err(error), _) => return Err(to_python(py, error)),
        };
        if matches!(input, Input::Commit) {
            own.is_committing.store(true, Ordering::SeqCst);
        }
        if matches!(input, Input::Commit | Input::RollBack | Input::Interrupt) {
            own.is_ending.send_replace(true);
        }
        let (running, wait_until) = (Arc::clone(&own.running), Arc::clone(&own.wait_until));
        let mut going: Pin<Box<dyn Future<Output = Next> + Send>> = Box::pin(async move {
            let mut running = running.lock().await;
            match input {
                Input::None => {}
                Input::Answers(answers) => running.answered(answers).await,
                Input::Commit => running.commit(),
                Input::RollBack => running.roll_back(),
                Input::Interrupt => running.interrupt().await,
            }
            let next = loop {
                match running.next_step() {
                    Next::Work => running.work().await,
                    next => break next,
                }
            };
            *wait_until.lock().unwrap_or_else(PoisonError::into_inner) = running.wait_until();
            next
        });
        let _entered = own.handle.enter();
        // Most steps wait for nothing. To have another thread take them, and a third one tell of it, each of
        // which waits for the GIL beside busy ones, took longer than what they do.
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(next) = going.as_mut().poll(&mut context) {
            return told(py, next).map(|told| Some((told,)));
        }
        let promise = Promise::or(&own.tellings, future, own.closed_meanwhile(&self.id))
            .map_err(|error| to_python(py, error))?;
        own.handle.spawn(async move {
            let next = going.await;
            promise.keep(|py| told(py, next));
        });
        Ok(None)
    }
}

impl From<Answered> for Answer {
    fn from(answered: Answered) -> Answer {
        match answered {
            Answered::Row(row) => Ok(row),
            Answered::Failed((code, text)) => Err(Failure { code, source: text.into() }),
        }
    }
}

/// What a future is told: what is to be sent (a list), nothing (None: the caller's own statements), or how it ended
/// (a tuple of the protocol and whether it is applied; an empty one where it was rolled back).
fn told(py: Python<'_>, next: Next) -> PyResult<Py<PyAny>> {
    match next {
        Next::Send(messages) => {
            let messages: Vec<_> =
                messages.into_iter().map(|message| (message.branch, message.sql)).collect();
            Ok(messages.into_pyobject(py)?.into_any().unbind())
        }
        Next::Open | Next::Work => Ok(py.None()),
        Next::Ended(Ok(Some(finished))) => Ok(ended(&finished).into_pyobject(py)?.into_any().unbind()),
        Next::Ended(Ok(None)) => Ok(PyTuple::empty(py).into_any().unbind()),
        Next::Ended(Err(error)) => Err(to_python(py, error)),
    }
}

fn ended(finished: &Finished) -> (&'static str, bool) {
    let protocol = match finished.protocol {
        Protocol::None => "none",
        Protocol::ReadOnly => "read-only",
        Protocol::OnePhase => "one-phase",
        Protocol::TwoPhase => "two-phase",
    };
    (protocol, finished.is_applied)
}
