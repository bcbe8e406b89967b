//! The environment: `ONECOMMIT_RELAY__BATCH_MESSAGES` is `batch_messages` in `[relay]`, and wins
//! over the file. A variable that fits no key is an error, so that a slip of the pen in a
//! deployment does not silently leave a default in force.

use std::collections::BTreeMap;

use super::document::{Document, GivenProperties};
use super::settings::{ADMIN, COORDINATOR, PARTICIPANT, RELAY, ROOT, Table, ZOOKEEPER};
use super::value::{Origin, Section, suggest};
use crate::error::{Error, Result};

/// What every variable of ours begins with.
pub(super) const PREFIX: &str = "ONECOMMIT_";
/// Between the levels of a key.
const LEVEL: &str = "__";
/// Variables of ours that are no settings.
const RESERVED: [&str; 3] = ["FAILPOINTS", "FAILPOINTS_LOG", "LOG"];
const RESERVED_PREFIX: &str = "TEST_";

/// Puts the variables over what the file says.
pub(super) fn overlay(
    document: &mut Document,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    // Sorted, so that the same environment always gives the same error.
    let env: BTreeMap<String, String> = env.into_iter().collect();
    for (variable, value) in &env {
        match variable.strip_prefix(PREFIX) {
            Some(key) if !is_reserved(key) && !is_set_by_kubernetes(key) => {
                put(document, variable, key, value)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key) || key.starts_with(RESERVED_PREFIX)
}

/// Kubernetes puts variables like `ONECOMMIT_RELAY_SERVICE_HOST` and `ONECOMMIT_PORT_80_TCP_ADDR`
/// into every pod beside a service whose name begins with "onecommit": they are nobody's mistake.
fn is_set_by_kubernetes(key: &str) -> bool {
    let service = key.ends_with("SERVICE_HOST") || key.contains("SERVICE_PORT");
    let port = key == "PORT" || key.starts_with("PORT_") || key.ends_with("_PORT") || key.contains("_PORT_");
    (service || port) && !key.contains(LEVEL)
}

fn put(document: &mut Document, variable: &str, key: &str, value: &str) -> Result<()> {
    let origin = Origin::Environment(variable.to_string());
    if key != key.to_ascii_uppercase() {
        return Err(unknown(variable, &origin));
    }
    let key = key.to_ascii_lowercase();
    match key.split_once(LEVEL) {
        None => put_setting(&mut document.root, &key, value, origin),
        Some(("relay", key)) => put_setting(&mut document.relay, key, value, origin),
        Some(("coordinator", key)) => put_setting(&mut document.coordinator, key, value, origin),
        Some(("admin", key)) => put_setting(&mut document.admin, key, value, origin),
        Some(("zookeeper", key)) => {
            let made = || Section::new(&ZOOKEEPER, ZOOKEEPER.name, Some(origin.clone()));
            put_setting(document.zookeeper.get_or_insert_with(made), key, value, origin)
        }
        Some(("kafka", property)) if !property.is_empty() => {
            let made = || GivenProperties { origin: origin.clone(), values: BTreeMap::new() };
            let given = document.kafka.get_or_insert_with(made);
            given.values.insert(property.replace('_', "."), (value.to_string(), origin));
            Ok(())
        }
        // From the right, because a participant's name may end with `_`.
        Some(("participants", rest)) => match rest.rsplit_once(LEVEL) {
            Some((name, key)) if PARTICIPANT.setting(key).is_some() => {
                put_setting(document.participant(name, origin.clone())?, key, value, origin)
            }
            _ => Err(unknown(variable, &origin)),
        },
        Some(_) => Err(unknown(variable, &origin)),
    }
}

fn put_setting(section: &mut Section, key: &str, value: &str, origin: Origin) -> Result<()> {
    match section.table.setting(key) {
        Some(setting) => section.put_environment(setting, value, origin),
        None => {
            let Origin::Environment(variable) = &origin else { unreachable!("made by put") };
            Err(unknown(variable, &origin))
        }
    }
}

fn unknown(variable: &str, origin: &Origin) -> Error {
    let participant = variable.strip_prefix(PREFIX).and_then(|key| key.strip_prefix("PARTICIPANTS__"));
    let known: Vec<String> = match participant.and_then(|rest| rest.rsplit_once(LEVEL)) {
        Some((name, _)) => PARTICIPANT.keys().map(|key| name_of(&PARTICIPANT, key, name)).collect(),
        None => [&ROOT, &PARTICIPANT, &ZOOKEEPER, &RELAY, &COORDINATOR, &ADMIN]
            .iter()
            .flat_map(|table| table.keys().map(|key| name_of(table, key, "NAME")))
            .collect(),
    };
    let known = suggest(&variable.to_ascii_uppercase(), known.iter().map(String::as_str));
    origin.error(format!("{variable} fits no setting: {known}"))
}

/// The variable of a setting.
pub(super) fn name_of(table: &Table, key: &str, participant: &str) -> String {
    let levels = table.name.replace("NAME", participant).replace('.', LEVEL);
    let joiner = if levels.is_empty() { "" } else { LEVEL };
    format!("{PREFIX}{levels}{joiner}{key}").to_ascii_uppercase()
}
