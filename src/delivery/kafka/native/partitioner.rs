//! Which partition a key goes to.

use std::ffi::c_void;
use std::ptr;

/// Which hash turns a key into a partition. Java's producer uses murmur2; librdkafka's own default
/// scatters the same keys differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Partitioner {
    Murmur2,
    Consistent,
    Fnv1a,
}

impl Partitioner {
    /// By librdkafka's name. What the names say of keyless messages does not matter here: those of
    /// one transaction and topic share a partition.
    pub(in super::super) fn by_name(name: &str) -> Option<Self> {
        match name {
            "murmur2" | "murmur2_random" => Some(Partitioner::Murmur2),
            "consistent" | "consistent_random" => Some(Partitioner::Consistent),
            "fnv1a" | "fnv1a_random" => Some(Partitioner::Fnv1a),
            _ => None,
        }
    }

    pub(super) fn as_opaque(self) -> *mut c_void {
        ptr::without_provenance_mut(self as usize)
    }

    pub(super) fn from_opaque(opaque: *mut c_void) -> Self {
        match opaque.addr() {
            1 => Partitioner::Consistent,
            2 => Partitioner::Fnv1a,
            _ => Partitioner::Murmur2,
        }
    }
}
