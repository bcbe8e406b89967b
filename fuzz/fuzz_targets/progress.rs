//! Progress records: what can be read comes back when it is written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onecommit::protocol::progress::Progress;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(found) = Progress::decode(bytes) {
        assert_eq!(Progress::decode(&found.encode()).unwrap(), found);
    }
});
