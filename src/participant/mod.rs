//! The participant port: a database that takes part in transactions over several, as a coordinator and
//! those who recover it see it. One folder a backend; what every backend owes is written at
//! [`Participant`] and checked by one conformance suite.

#[cfg(feature = "postgres")]
pub mod postgres;

mod isolation;
mod port;
pub use {isolation::Isolation, port::*};
