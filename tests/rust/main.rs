//! Tests against real databases and servers: one conformance suite a port, which each backend
//! passes by one call.

#[cfg(feature = "zookeeper")]
mod access_zookeeper;
#[cfg(feature = "service")]
mod combinations;
mod conformance_decision_log;
mod conformance_delivery;
mod conformance_group;
mod conformance_lease;
mod conformance_lock;
mod conformance_outbox;
mod conformance_participant;
mod conformance_set_aside;
mod conformance_settings;
#[cfg(feature = "service")]
mod coordinator;
#[cfg(feature = "sqlite")]
mod decision_log_file;
#[cfg(feature = "zookeeper")]
mod decision_log_zookeeper;
#[cfg(feature = "kafka")]
mod delivery_kafka;
#[cfg(feature = "service")]
mod groups;
#[cfg(feature = "kafka")]
mod kafka_reader;
#[cfg(feature = "postgres")]
mod lease_postgres;
#[cfg(feature = "zookeeper")]
mod lease_zookeeper;
#[cfg(feature = "sqlite")]
mod lock_file;
#[cfg(feature = "zookeeper")]
mod lock_zookeeper;
#[cfg(feature = "cli")]
mod log_lines;
#[cfg(any(feature = "postgres", feature = "zookeeper"))]
mod nobody;
#[cfg(feature = "postgres")]
mod outbox_postgres;
#[cfg(feature = "postgres")]
mod participant_postgres;
mod patience;
#[cfg(feature = "postgres")]
mod postgres_servers;
#[cfg(feature = "postgres")]
mod read_path;
#[cfg(feature = "service")]
mod settings;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "zookeeper")]
mod zookeeper_server;
