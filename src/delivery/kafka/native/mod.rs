//! The one module with `unsafe`: it owns a transactional producer through librdkafka's own calls.
//!
//! Why not the safe wrapper: librdkafka has no KIP-890, so a late EndTxn request can end the *next*
//! transaction, and it resends one silently; a commit returned OK, and the held request later
//! committed half of the next transaction without its progress. So every EndTxn request is counted
//! by an interceptor, which may only be added while the client is made, where the wrapper allows
//! nobody in; and its commit costs at least 100 ms. More than one EndTxn for a commit, or an
//! outcome that is not known, is `Unclear`: the owner drops this producer and makes a new one with
//! the same `transactional.id`.
//!
//! What the `unsafe` relies on, in one place:
//! - `Shared` lives in an `Arc` that is a field after `client`, so it outlives every callback:
//!   `rd_kafka_destroy` returns only when librdkafka's threads have ended.
//! - Topic handles are destroyed before the client (`Drop`), and are used only by this thread.
//! - librdkafka copies key and headers before `rd_kafka_produceva` returns, but not the value: those
//!   of a transaction are kept in `values`, a field after `client`, until a commit says that every
//!   message is taken. After an abort requests may still be under way with them, so they stay.
#![allow(unsafe_code)]

mod callbacks;
mod markers;
mod partitioner;
mod token;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod wait;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::bindings as rd;
use rdkafka::client::Client;
use rdkafka::config::ClientConfig;
use rdkafka::metadata::Metadata;
use rdkafka::types::{RDKafkaRespErr, RDKafkaType};

pub(super) use self::callbacks::Failure;
use self::callbacks::{Context, Shared};
use self::markers::Markers;
pub(super) use self::partitioner::Partitioner;
pub(super) use self::token::log_in;
use super::failure::{Outcome, from_code, from_kafka};
use super::token::Tokens;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Header, ID_HEADER};

/// librdkafka's `RD_KAFKA_PARTITION_UA`: the partitioner decides.
const PARTITION_UNASSIGNED: i32 = -1;
/// How long a full queue of librdkafka may stay full.
const QUEUE_LIMIT: Duration = Duration::from_secs(15);
/// How long the report of the message that failed a transaction may come later than the failure.
const REPORT_LIMIT: Duration = Duration::from_millis(500);

/// How long the broker is asked to fence before it is asked again.
const INIT_STEP: Duration = Duration::from_millis(100);
/// How long a transaction that has failed may take to say why.
const WHY_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked whether all messages of a transaction are taken; less often once that takes
/// longer than it ever does while the brokers answer: each look wakes all of librdkafka's threads.
const SENT_LOOK: Duration = Duration::from_millis(1);
const SLOW_LOOK: Duration = Duration::from_millis(20);
const SLOW_AFTER: Duration = Duration::from_millis(100);

/// A message as the producer takes it.
pub(super) struct Record<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: Option<i32>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a Bytes>,
    pub(super) headers: &'a [Header],
    pub(super) id: Option<&'a str>,
    pub(super) timestamp_ms: i64,
    /// Keyless messages with the same number go to the same partition.
    pub(super) keyless_group: u64,
}

/// A transactional producer; dropping it ends it.
pub(super) struct Producer {
    topics: HashMap<String, *mut rd::rd_kafka_topic_t>,
    /// The topic of the message before: most messages go where that one went.
    last_topic: Option<(String, *mut rd::rd_kafka_topic_t)>,
    client: Client<Context>,
    shared: Arc<Shared>,
    /// What librdkafka reads of.
    values: Vec<Bytes>,
    partitioner: Partitioner,
    markers: Markers,
    last_code: Option<RDKafkaRespErr>,
}

// SAFETY: the raw topic handles are librdkafka's own, which may be used from any thread.
unsafe impl Send for Producer {}

impl Producer {
    /// Makes the client, with a token where it needs one; nothing is sent yet.
    pub(super) fn new(
        config: &ClientConfig,
        tokens: Option<Arc<Tokens>>,
        partitioner: Partitioner,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let refused = |error| from_kafka("configure producer", error);
        let native = config.create_native_config().map_err(refused)?;
        let opaque = Arc::as_ptr(&shared).cast_mut().cast::<c_void>();
        // SAFETY: `native` is a live configuration; `opaque` points into `shared` (see above).
        unsafe {
            rd::rd_kafka_conf_set_log_cb(native.ptr(), Some(callbacks::on_log));
            rd::rd_kafka_conf_set_dr_msg_cb(native.ptr(), Some(callbacks::on_delivery));
            rd::rd_kafka_conf_interceptor_add_on_new(
                native.ptr(),
                c"onecommit".as_ptr(),
                Some(callbacks::on_new),
                opaque,
            );
        }
        if tokens.is_some() {
            token::prepare(&native);
        }
        let context = Context { shared: Arc::clone(&shared), tokens };
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_PRODUCER, context).map_err(refused)?;
        if let Some(tokens) = &client.context().tokens {
            log_in(&client, &tokens.get()?)?;
            token::renew_in_background(&client)?;
        }
        Ok(Producer {
            topics: HashMap::new(),
            last_topic: None,
            client,
            shared,
            values: Vec::new(),
            partitioner,
            markers: Markers::new(),
            last_code: None,
        })
    }

    /// What the cluster says of one topic. Ours is made first: librdkafka gives a name one topic, with
    /// the settings of whoever came first, and the wrapper's would be one without our partitioner.
    pub(super) fn metadata(&mut self, topic: &str, limit: Duration) -> Result<Metadata> {
        self.topic(topic)?;
        let found = self.client.fetch_metadata(Some(topic), limit);
        found.map_err(|error| from_kafka("look up topic", error).with("topic", topic))
    }

    /// Fences every producer with the same `transactional.id`, and ends what they left open. Until the
    /// broker has ended that it refuses, and librdkafka asks again only after half a second, or at once
    /// when this call is made again (`rd_kafka_idemp_start`): so it is made in short steps.
    pub(super) fn init_transactions(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // SAFETY: the client lives as long as `self`; a non-null error lives until `outcome`.
            let (error, may_follow) = unsafe {
                let step = millis(left.min(INIT_STEP));
                let error = rd::rd_kafka_init_transactions(self.client.native_ptr(), step);
                (error, !error.is_null() && rd::rd_kafka_error_is_retriable(error) != 0)
            };
            let done = self.outcome("init transactions", error).map_err(Outcome::into_error);
            if !may_follow || left <= INIT_STEP {
                return done;
            }
        }
    }

    /// Begins a transaction.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.forget_failures();
        self.markers.wait();
        // SAFETY: as above.
        let error = unsafe { rd::rd_kafka_begin_transaction(self.client.native_ptr()) };
        self.outcome("begin transaction", error).map_err(Outcome::into_error)
    }

    /// Hands a message to librdkafka. Waits while its queue is full. False where it is larger than
    /// `message.max.bytes` allows: then it is not in the transaction, which is none the worse.
    pub(super) fn send(&mut self, record: &Record<'_>) -> Result<bool> {
        let topic = self.topic(record.topic)?;
        let deadline = Instant::now() + QUEUE_LIMIT;
        loop {
            let code = self.produce(topic, record)?;
            match code {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
                    self.markers.sent();
                    self.values.extend(record.value.cloned());
                    return Ok(true);
                }
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE => return Ok(false),
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__QUEUE_FULL if Instant::now() < deadline => {
                    self.poll(Duration::from_millis(20));
                }
                code => {
                    // Where a message before this one has failed, librdkafka takes no more: that
                    // one is the culprit. It may refuse a moment before it reports that one.
                    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__STATE {
                        self.poll(REPORT_LIMIT);
                    }
                    self.check()?;
                    if self.shared.purged.load(Ordering::SeqCst) {
                        return self.why_failed().map(|()| false);
                    }
                    let error = from_code("send message", code, "the message was not taken");
                    return Err(error.with("topic", record.topic));
                }
            }
        }
    }

    /// Serves delivery reports and log lines; fails where a message of this transaction failed.
    pub(super) fn check(&self) -> Result<()> {
        self.poll(Duration::ZERO);
        let failures = self.failures();
        let is_culprit =
            |failure: &&Failure| failure.code != RDKafkaRespErr::RD_KAFKA_RESP_ERR__INVALID_DIFFERENT_RECORD;
        let Some(first) = failures.iter().find(is_culprit).or(failures.first()) else { return Ok(()) };
        let error = from_code("deliver message", first.code, "Kafka did not take a message");
        let error = error.with("topic", &first.topic);
        Err(match first.message_id {
            Some(id) => error.with("message_id", id),
            None => error,
        })
    }

    /// Waits until every message is taken; fails where one was not.
    pub(super) fn flush(&mut self, limit: Duration) -> Result<()> {
        self.wait_sent(limit);
        self.check()?;
        if self.shared.purged.load(Ordering::SeqCst) {
            return self.why_failed();
        }
        Ok(())
    }

    /// The messages of this transaction that were not taken.
    pub(super) fn failures(&self) -> Vec<Failure> {
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// With what the last call for the transaction as a whole failed.
    pub(super) fn last_code(&self) -> Option<RDKafkaRespErr> {
        self.last_code
    }

    /// A transaction that has failed says why only when it is to be committed.
    fn why_failed(&mut self) -> Result<()> {
        self.commit(WHY_LIMIT)?;
        let why = "a transaction was committed whose messages were given up";
        Err(Error::new(ErrorKind::Unclear, "commit transaction", why))
    }

    /// Commits. Only `Ok` means that the transaction, and nothing but it, is committed; `Unclear`
    /// that it may be. After any error this producer may only be dropped, or aborted where the
    /// error is not `Unclear`.
    pub(super) fn commit(&mut self, limit: Duration) -> Result<()> {
        let limit = self.wait_sent(limit);
        self.markers.taken();
        let before = self.shared.end_txn_requests.load(Ordering::SeqCst);
        // SAFETY: as above.
        let error = unsafe { rd::rd_kafka_commit_transaction(self.client.native_ptr(), millis(limit)) };
        self.markers.ended();
        let sent = self.shared.end_txn_requests.load(Ordering::SeqCst) - before;
        match (self.outcome("commit transaction", error), sent) {
            (Ok(()), 1) => {
                self.values.clear();
                Ok(())
            }
            (Ok(()), _) => Err(Error::new(
                ErrorKind::Unclear,
                "commit transaction",
                "the request that ends the transaction was sent more than once",
            )
            .with("requests", sent)),
            (Err(outcome), 0) => {
                let error = outcome.into_error();
                match error.kind() {
                    ErrorKind::Fenced => Err(error),
                    _ => Err(self.check().err().unwrap_or(error)),
                }
            }
            (Err(outcome), _) => Err(outcome.into_unclear()),
        }
    }

    /// Aborts the open transaction.
    pub(super) fn abort(&mut self, limit: Duration) -> Result<()> {
        // SAFETY: as above.
        let error = unsafe { rd::rd_kafka_abort_transaction(self.client.native_ptr(), millis(limit)) };
        self.markers.ended();
        self.outcome("abort transaction", error).map_err(Outcome::into_error)
    }

    /// Waits until every message is taken or has failed; returns what is left of the limit.
    /// librdkafka's own wait looks every 10 ms, which is as long as all the rest of a commit.
    fn wait_sent(&self, limit: Duration) -> Duration {
        let began = Instant::now();
        let deadline = began + limit;
        loop {
            let look = if began.elapsed() < SLOW_AFTER { SENT_LOOK } else { SLOW_LOOK };
            // SAFETY: as above.
            let code = unsafe { rd::rd_kafka_flush(self.client.native_ptr(), millis(look)) };
            let left = deadline.saturating_duration_since(Instant::now());
            if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT || left.is_zero() {
                return left;
            }
        }
    }

    fn poll(&self, limit: Duration) {
        // SAFETY: as above. The callbacks it runs touch `shared` only.
        unsafe { rd::rd_kafka_poll(self.client.native_ptr(), millis(limit)) };
    }

    fn forget_failures(&mut self) {
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.purged.store(false, Ordering::SeqCst);
        self.last_code = None;
    }

    fn outcome(&mut self, operation: &'static str, error: *mut rd::rd_kafka_error_t) -> Result<(), Outcome> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: a non-null error is ours until destroyed; its string is copied before that.
        let (code, text) = unsafe {
            let code = rd::rd_kafka_error_code(error);
            let text = CStr::from_ptr(rd::rd_kafka_error_string(error)).to_string_lossy().into_owned();
            rd::rd_kafka_error_destroy(error);
            (code, text)
        };
        self.last_code = Some(code);
        Err(Outcome { operation, code, text })
    }

    fn topic(&mut self, name: &str) -> Result<*mut rd::rd_kafka_topic_t> {
        if let Some((last, topic)) = &self.last_topic
            && last == name
        {
            return Ok(*topic);
        }
        let topic = match self.topics.get(name) {
            Some(topic) => *topic,
            None => self.new_topic(name)?,
        };
        self.last_topic = Some((name.to_string(), topic));
        Ok(topic)
    }

    fn new_topic(&mut self, name: &str) -> Result<*mut rd::rd_kafka_topic_t> {
        let c_name = CString::new(name).map_err(|error| {
            Error::new(ErrorKind::Failed, "send message", "the topic's name has a NUL").caused_by(error)
        })?;
        // SAFETY: the topic's configuration is handed over to `rd_kafka_topic_new`.
        let topic = unsafe {
            let conf = rd::rd_kafka_default_topic_conf_dup(self.client.native_ptr());
            rd::rd_kafka_topic_conf_set_opaque(conf, self.partitioner.as_opaque());
            rd::rd_kafka_topic_conf_set_partitioner_cb(conf, Some(callbacks::partition));
            rd::rd_kafka_topic_new(self.client.native_ptr(), c_name.as_ptr(), conf)
        };
        if topic.is_null() {
            let why = "librdkafka can't use this topic's name";
            return Err(Error::new(ErrorKind::Failed, "send message", why).with("topic", name));
        }
        self.topics.insert(name.to_string(), topic);
        Ok(topic)
    }

    fn produce(&self, topic: *mut rd::rd_kafka_topic_t, record: &Record<'_>) -> Result<RDKafkaRespErr> {
        use rd::rd_kafka_vtype_t as vtype;
        let headers = headers_of(record)?;
        let mem = |part: Option<&[u8]>| rd::rd_kafka_vu_s__bindgen_ty_1 {
            mem: rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
                ptr: part.map_or(ptr::null_mut(), |bytes| bytes.as_ptr().cast_mut().cast()),
                size: part.map_or(0, <[u8]>::len),
            },
        };
        let vu = |vtype, u| rd::rd_kafka_vu_t { vtype, u };
        let arguments = [
            vu(vtype::RD_KAFKA_VTYPE_RKT, rd::rd_kafka_vu_s__bindgen_ty_1 { rkt: topic }),
            vu(
                vtype::RD_KAFKA_VTYPE_PARTITION,
                rd::rd_kafka_vu_s__bindgen_ty_1 { i32_: record.partition.unwrap_or(PARTITION_UNASSIGNED) },
            ),
            vu(vtype::RD_KAFKA_VTYPE_KEY, mem(record.key)),
            vu(vtype::RD_KAFKA_VTYPE_VALUE, mem(record.value.map(Bytes::as_ref))),
            vu(
                vtype::RD_KAFKA_VTYPE_TIMESTAMP,
                rd::rd_kafka_vu_s__bindgen_ty_1 { i64_: record.timestamp_ms },
            ),
            vu(
                vtype::RD_KAFKA_VTYPE_OPAQUE,
                rd::rd_kafka_vu_s__bindgen_ty_1 {
                    ptr: ptr::without_provenance_mut(record.keyless_group as usize),
                },
            ),
            vu(vtype::RD_KAFKA_VTYPE_HEADERS, rd::rd_kafka_vu_s__bindgen_ty_1 { headers }),
        ];
        // SAFETY: every pointer lives across the call, the value's until it is not needed any more (see
        // above); the headers are librdkafka's on success.
        let code = unsafe {
            let error = rd::rd_kafka_produceva(self.client.native_ptr(), arguments.as_ptr(), arguments.len());
            if error.is_null() {
                return Ok(RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
            }
            rd::rd_kafka_headers_destroy(headers);
            let code = rd::rd_kafka_error_code(error);
            rd::rd_kafka_error_destroy(error);
            code
        };
        Ok(code)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        for topic in self.topics.values() {
            // SAFETY: each handle was made by `topic` and is destroyed once, before the client.
            unsafe { rd::rd_kafka_topic_destroy(*topic) };
        }
    }
}

fn headers_of(record: &Record<'_>) -> Result<*mut rd::rd_kafka_headers_t> {
    let own = record.id.map(|id| (ID_HEADER, Some(id.as_bytes())));
    let given = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
    // SAFETY: names and values are copied by `rd_kafka_header_add`; lengths are passed with them.
    let headers = unsafe { rd::rd_kafka_headers_new(record.headers.len() + 1) };
    for (name, value) in given.chain(own) {
        let bytes = value.map_or(ptr::null(), |bytes| bytes.as_ptr().cast());
        let len = value.map_or(0, |bytes| bytes.len() as isize);
        // SAFETY: as above.
        let code = unsafe {
            rd::rd_kafka_header_add(headers, name.as_ptr().cast(), name.len() as isize, bytes, len)
        };
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            // SAFETY: not handed over yet.
            unsafe { rd::rd_kafka_headers_destroy(headers) };
            return Err(from_code("send message", code, "a header was not taken").with("header", name));
        }
    }
    Ok(headers)
}

fn millis(limit: Duration) -> c_int {
    c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX)
}
