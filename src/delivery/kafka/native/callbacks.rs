//! What librdkafka's threads call. Each callback touches only what its opaque pointer names, never
//! panics, and returns at once.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::bindings as rd;
use rdkafka::client::ClientContext;
use rdkafka::types::RDKafkaRespErr;

use super::partitioner::Partitioner;

/// Kafka's number for the request that ends a transaction.
const END_TXN: i16 = 26;

/// What librdkafka's threads write and the producer's owner reads.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) end_txn_requests: AtomicU64,
    pub(super) first_failure: Mutex<Option<(RDKafkaRespErr, String)>>,
}

/// The client's context, which is the opaque pointer of its delivery reports.
pub(super) struct Context(pub(super) Arc<Shared>);

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

/// A delivery report; only failures are reported. The first one names the culprit.
pub(super) unsafe extern "C" fn on_delivery(
    _client: *mut rd::rd_kafka_t,
    message: *const rd::rd_kafka_message_t,
    opaque: *mut c_void,
) {
    // SAFETY: both pointers are valid during the call; `opaque` is the client's context.
    let (shared, code, topic) = unsafe {
        let shared = &opaque.cast::<Context>().as_ref().expect("set by Client::new").0;
        let topic = CStr::from_ptr(rd::rd_kafka_topic_name((*message).rkt)).to_string_lossy().into_owned();
        (shared, (*message).err, topic)
    };
    // What is purged is so because of something else: it is no culprit.
    let is_failure = !matches!(
        code,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR__PURGE_QUEUE
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR__PURGE_INFLIGHT
    );
    if is_failure {
        shared.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((code, topic));
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
