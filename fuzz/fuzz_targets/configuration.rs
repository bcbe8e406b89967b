//! The configuration's text: it is read, or refused in words.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onecommit::config::Config;
use onecommit::{Error, ErrorKind};

fuzz_target!(|text: &str| {
    let error: Option<Error> = Config::from_toml(text, []).err();
    assert!(error.is_none_or(|error| error.kind() == ErrorKind::Configuration));
});
