//! Hands tokens for SASL/OAUTHBEARER to clients. The wrapper does so only where a client is polled, and
//! most of ours never are.

use std::ffi::{CStr, CString, c_char, c_void};

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::NativeClientConfig;
use rdkafka::types::RDKafkaRespErr;

use super::super::failure::from_code;
use super::super::token::Token;
use super::callbacks::Context;
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "log in to Kafka";
const REASON_BYTES: usize = 512;

/// From now on the client logs in with this token.
pub(in super::super) fn log_in<C: ClientContext>(client: &Client<C>, token: &Token) -> Result<()> {
    // SAFETY: the client lives during the call.
    unsafe { set_token(client.native_ptr(), token) }
}

/// A producer is polled only while it delivers: librdkafka's background thread asks for its tokens.
/// Prepares that in the configuration that the client is made from.
pub(super) fn prepare(native: &NativeClientConfig) {
    // SAFETY: the configuration lives during the calls.
    unsafe {
        rd::rd_kafka_conf_enable_sasl_queue(native.ptr(), 1);
        rd::rd_kafka_conf_set_oauthbearer_token_refresh_cb(native.ptr(), Some(on_refresh));
    }
}

/// Begins it.
pub(super) fn renew_in_background(client: &Client<Context>) -> Result<()> {
    // SAFETY: the client lives during the call; a non-null error is ours until destroyed.
    let code = unsafe {
        let error = rd::rd_kafka_sasl_background_callbacks_enable(client.native_ptr());
        if error.is_null() {
            return Ok(());
        }
        let code = rd::rd_kafka_error_code(error);
        rd::rd_kafka_error_destroy(error);
        code
    };
    Err(from_code(OPERATION, code, "librdkafka can't renew tokens in the background"))
}

unsafe extern "C" fn on_refresh(client: *mut rd::rd_kafka_t, _config: *const c_char, opaque: *mut c_void) {
    // SAFETY: librdkafka passes the client, which lives during the call, and its context.
    unsafe {
        let Some(tokens) = opaque.cast::<Context>().as_ref().and_then(|context| context.tokens.as_ref())
        else {
            return;
        };
        if let Err(error) = tokens.get().and_then(|token| set_token(client, &token)) {
            tracing::debug!(%error, "a producer has no token");
            let why = CString::new(error.to_string()).unwrap_or_default();
            rd::rd_kafka_oauthbearer_set_token_failure(client, why.as_ptr());
        }
    }
}

unsafe fn set_token(client: *mut rd::rd_kafka_t, token: &Token) -> Result<()> {
    let mut reason: [c_char; REASON_BYTES] = [0; REASON_BYTES];
    // SAFETY: the caller has a live client; every string is copied before the call returns. The principal
    // is told to no broker.
    let code = unsafe {
        rd::rd_kafka_oauthbearer_set_token(
            client,
            token.value.as_ptr(),
            token.expires_at_ms,
            c"".as_ptr(),
            std::ptr::null_mut(),
            0,
            reason.as_mut_ptr(),
            REASON_BYTES,
        )
    };
    let (kind, what) = match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => return Ok(()),
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__STATE => (
            ErrorKind::Configuration,
            "`token.command` needs sasl.mechanism OAUTHBEARER, and security.protocol SASL_SSL or SASL_PLAINTEXT",
        ),
        _ => (ErrorKind::Unreachable, "librdkafka does not take what `token.command` printed"),
    };
    // SAFETY: librdkafka ends it with NUL.
    let reason = unsafe { CStr::from_ptr(reason.as_ptr()) }.to_string_lossy().into_owned();
    Err(Error::new(kind, OPERATION, what).caused_by(reason))
}
