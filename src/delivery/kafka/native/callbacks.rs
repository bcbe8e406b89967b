//! What librdkafka's threads call. Each callback touches only what its opaque pointer names, never
//! panics, and returns at once.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::bindings as rd;
use rdkafka::client::ClientContext;
use rdkafka::types::RDKafkaRespErr;

use super::super::token::Tokens;
use super::partitioner::Partitioner;
use crate::id::MessageId;
use crate::message::ID_HEADER;

/// Kafka's number for the request that ends a transaction.
const END_TXN: i16 = 26;

/// What librdkafka's threads write and the producer's owner reads.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) end_txn_requests: AtomicU64,
    pub(super) failures: Mutex<Vec<Failure>>,
    /// Messages were given up because of something else: the transaction has failed.
    pub(super) purged: AtomicBool,
}

/// More failures than this of one transaction tell nothing more.
const FAILURES_MAX: usize = 10_000;

/// A message that was not taken.
#[derive(Clone, Debug)]
pub(in super::super) struct Failure {
    pub(in super::super) code: RDKafkaRespErr,
    pub(in super::super) topic: String,
    pub(in super::super) partition: i32,
    /// None where it is no message of an outbox.
    pub(in super::super) message_id: Option<MessageId>,
}

/// The client's context, which is the opaque pointer of its delivery reports.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    /// None where it needs no token.
    pub(super) tokens: Option<Arc<Tokens>>,
}

impl ClientContext for Context {}

/// Adds the counter of EndTxn requests while the client is made: later is not allowed.
pub(super) unsafe extern "C" fn on_new(
    client: *mut rd::rd_kafka_t,
    _conf: *const rd::rd_kafka_conf_t,
    opaque: *mut c_void,
    _errstr: *mut c_char,
    _errstr_size: usize,
) -> RDKafkaRespErr {
    // SAFETY: librdkafka calls it once, with the client that is being made.
    unsafe {
        rd::rd_kafka_interceptor_add_on_request_sent(client, c"onecommit".as_ptr(), Some(on_request), opaque)
    }
}

unsafe extern "C" fn on_request(
    _client: *mut rd::rd_kafka_t,
    _socket: c_int,
    _broker_name: *const c_char,
    _broker_id: i32,
    api_key: i16,
    _api_version: i16,
    _correlation_id: i32,
    _size: usize,
    opaque: *mut c_void,
) -> RDKafkaRespErr {
    if api_key == END_TXN {
        // SAFETY: `opaque` is the `Shared` that outlives the client.
        let shared = unsafe { &*opaque.cast::<Shared>() };
        shared.end_txn_requests.fetch_add(1, Ordering::SeqCst);
    }
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// A delivery report; only failures are reported.
pub(super) unsafe extern "C" fn on_delivery(
    _client: *mut rd::rd_kafka_t,
    message: *const rd::rd_kafka_message_t,
    opaque: *mut c_void,
) {
    // SAFETY: both pointers are valid during the call; `opaque` is the client's context.
    let (shared, code) = unsafe {
        let shared = &opaque.cast::<Context>().as_ref().expect("set by Client::new").shared;
        (shared, (*message).err)
    };
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
        // It is so because of something else: no culprit.
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__PURGE_QUEUE
        | RDKafkaRespErr::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT => shared.purged.store(true, Ordering::SeqCst),
        code => {
            let mut failures = shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if failures.len() < FAILURES_MAX {
                // SAFETY: as above.
                failures.push(unsafe { failure(message, code) });
            }
        }
    }
}

/// What a report says; the message's id stands in its own header.
unsafe fn failure(message: *const rd::rd_kafka_message_t, code: RDKafkaRespErr) -> Failure {
    // SAFETY: the message is valid during the callback, and its headers with it; what is kept of
    // them is copied.
    unsafe {
        let topic = CStr::from_ptr(rd::rd_kafka_topic_name((*message).rkt)).to_string_lossy().into_owned();
        let mut headers = std::ptr::null_mut();
        let (mut value, mut size) = (std::ptr::null(), 0);
        let name = CString::new(ID_HEADER).unwrap_or_default();
        let found = rd::rd_kafka_message_headers(message, &raw mut headers)
            == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
            && rd::rd_kafka_header_get_last(headers, name.as_ptr(), &raw mut value, &raw mut size)
                == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
            && !value.is_null();
        let text = if found { std::slice::from_raw_parts(value.cast::<u8>(), size) } else { &[] };
        let message_id = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        Failure { code, topic, partition: (*message).partition, message_id }
    }
}

/// librdkafka's log lines repeat themselves while a broker is away; the relay says it once itself.
pub(super) unsafe extern "C" fn on_log(
    _client: *const rd::rd_kafka_t,
    _level: c_int,
    facility: *const c_char,
    line: *const c_char,
) {
    // SAFETY: librdkafka passes two C strings that live during the call.
    let (facility, line) = unsafe { (CStr::from_ptr(facility), CStr::from_ptr(line)) };
    tracing::debug!(target: "librdkafka", "{} {}", facility.to_string_lossy(), line.to_string_lossy());
}

/// Chooses a partition. `topic_opaque` says which hash; `message_opaque` is the number that the
/// keyless messages of one transaction share.
pub(super) unsafe extern "C" fn partition(
    topic: *const rd::rd_kafka_topic_t,
    key: *const c_void,
    key_len: usize,
    partitions: i32,
    topic_opaque: *mut c_void,
    message_opaque: *mut c_void,
) -> i32 {
    if key.is_null() {
        let spread = (message_opaque as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        return (spread % partitions.max(1) as u64) as i32;
    }
    let hash = match Partitioner::from_opaque(topic_opaque) {
        Partitioner::Murmur2 => rd::rd_kafka_msg_partitioner_murmur2,
        Partitioner::Consistent => rd::rd_kafka_msg_partitioner_consistent,
        Partitioner::Fnv1a => rd::rd_kafka_msg_partitioner_fnv1a,
    };
    // SAFETY: the arguments are those that librdkafka passes to its own partitioners.
    unsafe { hash(topic, key, key_len, partitions, topic_opaque, message_opaque) }
}
