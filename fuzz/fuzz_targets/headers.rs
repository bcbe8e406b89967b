//! Headers as SQLite keeps them: what can be read is written the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onecommit::fuzzing::{encoded_headers, headers};

fuzz_target!(|bytes: &[u8]| {
    if let Some(found) = headers(bytes).filter(|found| !found.is_empty()) {
        assert_eq!(encoded_headers(&found).as_deref(), Some(bytes));
    }
});
