//! The admin face: health and metrics of the relays in this process, over HTTP. It only reads, and
//! answers whoever can connect; nothing that it does makes a relay wait.

mod exposition;
mod health;
mod metrics;
mod process;
mod server;

pub(crate) use self::server::Server;

#[cfg(test)]
mod documents;
