//! The participant port: a database that takes part in transactions over several, as a coordinator and
//! those who recover it see it. One file a backend; what every backend owes is written at
//! [`Participant`] and checked by one conformance suite.

mod port;
pub use port::*;
