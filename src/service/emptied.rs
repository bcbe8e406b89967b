//! What speaks against giving an installation a ZooKeeper that does not know it: that one may have been emptied, and with
//! it went every decision.

use std::collections::BTreeMap;

use super::build;
use crate::config::{Config, DatabaseUrl};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ParticipantName;
use crate::outbox::Installation;
use crate::participant::Participant as _;
use crate::participant::postgres::PostgresParticipant;

/// Refused where a database has a prepared branch of its installation, of which a ZooKeeper knows nothing.
pub(super) async fn expect_nothing_prepared(
    operation: &'static str,
    config: &Config,
    known: &BTreeMap<ParticipantName, Installation>,
) -> Result<()> {
    let mut prepared = Vec::new();
    for (name, installation) in known {
        let Some(DatabaseUrl::Postgres(url)) = config.participants.get(name).map(|one| &one.url) else {
            continue;
        };
        let port = PostgresParticipant::new(url, &config.schema, 1, build::request_limit(config));
        let (_, listed) = port.prepared().await.map_err(|error| error.with("participant", name))?;
        let names = listed.into_iter().map(|branch| branch.name);
        let ours = names.filter(|name| name.is_of(&installation.namespace, installation.incarnation));
        prepared.extend(ours.map(|name| name.to_string()));
    }
    if prepared.is_empty() {
        return Ok(());
    }
    let why = "ZooKeeper does not know this installation, and transactions of it are prepared in its databases: what was \
               decided of them stands nowhere else. Nothing was changed. Give the right servers and chroot; or, where \
               ZooKeeper was emptied, compare the participants, end these branches by hand (COMMIT PREPARED or ROLLBACK \
               PREPARED, all of a transaction alike), and run this again";
    Err(Error::new(ErrorKind::Refused, operation, why).with("prepared", prepared.join(", ")))
}
