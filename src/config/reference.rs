//! `docs/configuration.md`, made from the table of settings: what is documented is what is read.

use std::fmt::Write;

use super::environment::name_of;
use super::kafka::{PARTITIONER, PARTITIONER_DEFAULT, PARTITIONERS, REFUSED, SERVERS, TOKEN_COMMAND};
use super::settings::{
    ADMIN, COORDINATOR, DefaultValue, Kind, PARTICIPANT, RELAY, ROOT, Setting, TOPIC, Table, ZOOKEEPER,
};

const OPENING: &str = r#"<!-- Made from src/config: change it there, then
     ONECOMMIT_TEST_WRITE_DOCS=1 cargo test --lib config::reference -->
# Configuration

Every command reads `./onecommit.toml`, or the file named by `--config FILE`; `demo` only a named one, and of
that only `[relay]`. A named file that is not there is an error; without one, and in an empty file, the defaults
below hold and everything is embedded. An unknown key is an error, never ignored.

```toml
namespace = "shop"

[kafka]
"bootstrap.servers" = "127.0.0.1:9092"

[participants.orders]
url = "postgresql://app@127.0.0.1/orders"
outbox = true
```

Variables of the environment win over the file. Their names begin with `ONECOMMIT_`, are in capital
letters, and have `__` between the levels: `ONECOMMIT_NAMESPACE`,
`ONECOMMIT_PARTICIPANTS__ORDERS__URL`. In Kafka's names `_` is a dot:
`ONECOMMIT_KAFKA__BOOTSTRAP_SERVERS` (a property that has a `_` of its own can only be given in the
file). One that fits no setting is an error too, but for those that are no settings:
`ONECOMMIT_LOG`, `ONECOMMIT_FAILPOINTS`, `ONECOMMIT_FAILPOINTS_LOG`, `ONECOMMIT_TEST_*`, and those
that Kubernetes makes from the names of services (`*_SERVICE_HOST`, `*_PORT_*`).

Settings marked ↻ may also be changed while everything runs, for all processes at once: `onecommit settings set
relay.batch_messages 1000` ([Operation](operation.md#settings-at-run-time)). What is set so wins over the environment
and the file. All others take a restart. One setting there is only at run time: `log_level`, which is `error`, `warn`,
`info`, `debug` or `trace`.

Passwords are never shown, neither in errors nor in logs. A password inside a URL has its special
characters percent-encoded (`%40` for `@`, `%2F` for `/`). How each server is reached by TLS, and which rights each
command needs there: [Security](security.md).
"#;

/// The reference of all settings, in Markdown: the text of `docs/configuration.md`.
pub fn reference() -> String {
    let mut page = String::from(OPENING);
    add_table(&mut page, &ROOT);
    add_table(&mut page, &PARTICIPANT);
    add_kafka(&mut page);
    add_table(&mut page, &ZOOKEEPER);
    add_table(&mut page, &RELAY);
    add_table(&mut page, &COORDINATOR);
    add_table(&mut page, &TOPIC);
    add_table(&mut page, &ADMIN);
    page
}

fn add_table(page: &mut String, table: &Table) {
    let title = if table.name.is_empty() { "Top level".to_string() } else { format!("`[{}]`", table.name) };
    line(page, &format!("\n## {title}\n\n{}\n", table.meaning));
    line(page, "| key | type | default | meaning | environment |\n|---|---|---|---|---|");
    for Setting { key, kind, default, meaning, at_run_time } in table.settings {
        let (kind, default) = (show_kind(kind), show_default(default));
        let variable = name_of(table, key, "NAME");
        let key = if *at_run_time { format!("`{key}` ↻") } else { format!("`{key}`") };
        line(page, &format!("| {key} | {kind} | {default} | {meaning} | `{variable}` |"));
    }
}

fn add_kafka(page: &mut String) {
    let names = PARTITIONERS.map(|name| format!("`{name}`")).join(", ");
    line(
        page,
        &format!(
            "\n## `[kafka]`\n\nThe cluster that messages are delivered to; without this table they go to the \
             embedded topic log, a SQLite file in `data_dir`. The keys are librdkafka's properties, in quotes or \
             not, with texts, numbers, `true` or `false`. `{SERVERS}` is required. `{PARTITIONER}` is \
             `{PARTITIONER_DEFAULT}`, as in Java's clients, or one of {names}. One key is ours: `{TOKEN_COMMAND}`, the \
             command that prints a token for the mechanism OAUTHBEARER ([Security](security.md)).\n\n\
             These can't be set, because the guarantees rest on them:\n\n| property | why |\n|---|---|"
        ),
    );
    for refused in &REFUSED {
        let names: Vec<String> = refused.names.iter().map(|name| format!("`{name}`")).collect();
        line(page, &format!("| {} | {} |", names.join(", "), refused.reason));
    }
    line(page, "| `test.…` | messages would go to a mock cluster in memory |");
}

fn show_kind(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text".to_string(),
        Kind::Flag => "`true` or `false`".to_string(),
        Kind::Number { min, max } => format!("{min} to {max}"),
    }
}

fn show_default(default: &DefaultValue) -> String {
    match default {
        DefaultValue::Text(text) => format!("`\"{text}\"`"),
        DefaultValue::Flag(flag) => format!("`{flag}`"),
        DefaultValue::Number(number) => format!("`{number}`"),
        DefaultValue::Words(words) => words.to_string(),
    }
}

fn line(page: &mut String, text: &str) {
    // Writing into a String can't fail.
    let _ = writeln!(page, "{text}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_page_in_docs_is_the_one_made_from_the_code() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        if std::env::var_os("ONECOMMIT_TEST_WRITE_DOCS").is_some_and(|value| value == "1") {
            fs::write(&page, super::reference()).unwrap();
        }
        let written = fs::read_to_string(&page).unwrap_or_default();
        assert!(
            written == super::reference(),
            "docs/configuration.md is not what the code says; make it anew with\n  \
             ONECOMMIT_TEST_WRITE_DOCS=1 cargo test --lib config::reference"
        );
    }
}
