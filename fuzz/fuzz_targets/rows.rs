//! Columns of PostgreSQL's, in its binary format, that are more than numbers.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Columns<'a> {
    xid: [u8; 8],
    created_at: [u8; 8],
    names: Option<&'a [u8]>,
    values: Option<&'a [u8]>,
}

fuzz_target!(|row: Columns<'_>| {
    onecommit::fuzzing::row(&row.xid, &row.created_at, row.names, row.values);
});
