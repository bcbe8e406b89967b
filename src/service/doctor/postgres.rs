//! A PostgreSQL database, its server, and what holds its vacuum back.

use super::finding::Findings;
use crate::outbox::postgres::{PostgresFacts, TableFacts};
use crate::protocol::branch::BranchName;

/// The first that has what the relay needs.
const VERSION_MIN: i32 = 130_000;
/// Clocks that differ by more are told: ages and Kafka's timestamps are wrong by as much.
const CLOCK_WARNING_MS: i64 = 1_000;
const CLOCK_PROBLEM_MS: i64 = 60_000;
/// A transaction of this age is long; one of an hour lets every table grow.
const LONG_S: i64 = 300;
const VERY_LONG_S: i64 = 3_600;
/// Dead rows above this, and above those that live, are more than vacuum is expected to leave.
const DEAD_MAX: i64 = 200_000;
/// A table of this size for each live row, and larger than the other bound, is mostly empty.
const BYTES_PER_ROW: i64 = 64 * 1024;
const SMALL_BYTES: i64 = 1024 * 1024 * 1024;
/// A slot that keeps rows for so many transactions holds vacuum back.
const SLOT_AGE: i64 = 1_000_000;
const MIB: i64 = 1024 * 1024;

pub(super) fn judge(findings: &mut Findings, place: &str, facts: &PostgresFacts) {
    judge_server(findings, place, facts);
    judge_clock(findings, place, facts);
    judge_settings(findings, place, facts);
    judge_rights(findings, place, facts);
    judge_table(findings, place, &facts.table);
    judge_transactions(findings, place, facts);
    judge_slots(findings, place, facts);
}

fn judge_server(findings: &mut Findings, place: &str, facts: &PostgresFacts) {
    let what = format!("PostgreSQL {}", facts.version_text);
    if facts.version < VERSION_MIN {
        findings.problem(place, what, "use PostgreSQL 13 or later: the relay reads by its 64-bit snapshots");
    } else {
        findings.ok(place, what);
    }
    if facts.standby {
        let todo = "give the primary's address: a standby's snapshots lack running transactions";
        findings.problem(place, "the server is a standby in recovery", todo);
    }
    let (open, most) = facts.connections;
    let what = format!("{open} of {most} connections are open");
    if open * 10 >= most * 8 {
        findings.warning(place, what, "raise max_connections, or put a pooler before the applications");
    } else {
        findings.ok(place, what);
    }
}

fn judge_clock(findings: &mut Findings, place: &str, facts: &PostgresFacts) {
    // What the answer's own time explains is no difference.
    let apart = (facts.clock_ahead_ms.abs() - facts.clock_inexact_ms / 2).max(0);
    let way = if facts.clock_ahead_ms < 0 { "behind" } else { "ahead of" };
    let what = format!("PostgreSQL's clock is {apart} ms {way} this machine's");
    let todo = "let NTP set both machines' clocks: no message is lost or doubled by it, but its age and its \
                timestamp in Kafka, by which Kafka deletes, are wrong";
    if apart < CLOCK_WARNING_MS {
        findings.ok(place, what);
    } else if apart < CLOCK_PROBLEM_MS {
        findings.warning(place, what, todo);
    } else {
        findings.problem(place, what, todo);
    }
}

fn judge_settings(findings: &mut Findings, place: &str, facts: &PostgresFacts) {
    let wanted = [
        ("fsync", "on", "switch it on: a crash would take back what was committed and delivered"),
        ("full_page_writes", "on", "switch it on: a crash in the middle of a page damages the table"),
        ("autovacuum", "on", "switch it on: the outbox's table grows with every message"),
        ("track_counts", "on", "switch it on: without it autovacuum does not know where to work"),
        (
            "default_transaction_read_only",
            "off",
            "switch it off for this role: `alter role … set default_transaction_read_only = off`",
        ),
    ];
    for (name, value, todo) in wanted {
        match facts.settings.iter().find(|(known, _)| known == name) {
            Some((_, found)) if found != value => findings.problem(place, format!("{name} is {found}"), todo),
            Some(_) => findings.ok(place, format!("{name} is {value}")),
            None => {}
        }
    }
    let synchronous = facts.settings.iter().find(|(name, _)| name == "synchronous_commit");
    if let Some((name, found)) = synchronous.filter(|(_, found)| found == "off") {
        findings.warning(
            place,
            format!("{name} is {found} for this role"),
            "the relay sets it where it has to; for the application it means that a crash loses its last \
             transactions, with their messages: switch it on where that must not be",
        );
    }
}

fn judge_rights(findings: &mut Findings, place: &str, facts: &PostgresFacts) {
    if facts.missing_rights.is_empty() {
        findings.ok(place, format!("the role {} has the rights that a relay needs", facts.role));
    } else {
        let missing = facts.missing_rights.join(", ");
        let what = format!("the role {} lacks rights that a relay needs: {missing}", facts.role);
        findings.problem(place, what, "let the schema's owner grant them");
    }
    if !facts.sees_sessions {
        findings.warning(
            place,
            format!("the role {} does not see other roles' transactions: long ones stay unknown", facts.role),
            format!("run this with a role that does, or `grant pg_read_all_stats to {}`", facts.role),
        );
    }
}

fn judge_table(findings: &mut Findings, place: &str, table: &TableFacts) {
    if table.autovacuum_off {
        let todo =
            format!("`alter table {} reset (autovacuum_enabled)`: it grows with every message", table.name);
        findings.problem(place, "autovacuum is switched off for the outbox's table", todo);
    }
    let last = table.vacuumed_before_s.map_or("never".to_string(), |seconds| format!("{seconds} s ago"));
    let what = format!("{} dead rows in the outbox, last autovacuum {last}", table.dead);
    if table.dead > DEAD_MAX && table.dead > table.live {
        findings.warning(
            place,
            what,
            "end what keeps them (long and prepared transactions, slots, below), or `vacuum` the table now; \
             where nothing keeps them autovacuum does not keep up: raise autovacuum_max_workers",
        );
    } else {
        findings.ok(place, what);
    }
    let bytes = table.table_bytes.saturating_add(table.index_bytes);
    let what = format!(
        "the outbox takes {} MiB and its indexes {} MiB, for {} live rows",
        table.table_bytes / MIB,
        table.index_bytes / MIB,
        table.live
    );
    if bytes > SMALL_BYTES && bytes / BYTES_PER_ROW > table.live {
        let todo = format!(
            "nothing is wrong while it drains; once nothing waits, give the room back in a quiet hour: `vacuum \
             full {}` (it locks publishing out meanwhile) or pg_repack",
            table.name
        );
        findings.warning(place, what, todo);
    } else {
        findings.ok(place, what);
    }
}

fn judge_transactions(findings: &mut Findings, place: &str, facts: &PostgresFacts) {
    let before = findings.all.len();
    for one in &facts.long_transactions {
        let what =
            format!("a transaction ({}, pid {}) is {} for {} s", one.who, one.pid, one.state, one.age_s);
        let todo = format!(
            "find out what it waits for and end it (`select pg_terminate_backend({})`): its own messages wait, \
             and no vacuum removes what has died since",
            one.pid
        );
        if one.age_s >= VERY_LONG_S {
            findings.problem(place, what, todo);
        } else if one.age_s >= LONG_S {
            findings.warning(place, what, todo);
        }
    }
    for one in &facts.prepared {
        if one.age_s >= LONG_S {
            findings.problem(
                place,
                format!("the transaction {:?} of {} is prepared for {} s and not ended", one.name, one.owner, one.age_s),
                match BranchName::parse(&one.name) {
                    Some(name) => format!(
                        "`onecommit transaction resolve {}` settles it, or says what keeps it: its messages wait, and \
                         its locks are held",
                        name.transaction
                    ),
                    None => format!(
                    "ask its coordinator how it ended, then `commit prepared` or `rollback prepared '{}'`: its \
                     messages wait, and its locks are held",
                    one.name.replace('\'', "''")
                ),
                },
            );
        }
    }
    if findings.all.len() == before {
        findings.ok(place, "no transaction, prepared or not, is open for long");
    }
}

fn judge_slots(findings: &mut Findings, place: &str, facts: &PostgresFacts) {
    let before = findings.all.len();
    for slot in facts.slots.iter().filter(|slot| !slot.active || slot.age > SLOT_AGE) {
        let reads = if slot.active { "is far behind" } else { "is read by nobody" };
        findings.warning(
            place,
            format!(
                "the replication slot {} {reads} and keeps rows for {} transactions",
                slot.name, slot.age
            ),
            format!(
                "let its reader catch up, or drop it: `select pg_drop_replication_slot('{}')`",
                slot.name
            ),
        );
    }
    if findings.all.len() == before {
        findings.ok(place, "no replication slot holds vacuum back");
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::super::finding::{Case, assert_each_found};
    use super::*;
    use crate::outbox::postgres::{LongTransaction, PreparedTransaction, SlotFacts};

    /// A healthy database.
    fn healthy() -> PostgresFacts {
        let settings = [
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("autovacuum", "on"),
            ("track_counts", "on"),
            ("default_transaction_read_only", "off"),
            ("synchronous_commit", "on"),
        ];
        PostgresFacts {
            version: 150_006,
            version_text: "15.6".to_string(),
            role: "relay".to_string(),
            sees_sessions: true,
            connections: (10, 100),
            settings: settings.map(|(name, value)| (name.to_string(), value.to_string())).to_vec(),
            ..PostgresFacts::default()
        }
    }

    fn set(facts: &mut PostgresFacts, name: &str, value: &str) {
        let found = facts.settings.iter_mut().find(|(known, _)| known == name);
        found.expect("a setting").1 = value.to_string();
    }

    fn long(age_s: i64) -> LongTransaction {
        LongTransaction { pid: 7, who: "app".to_string(), state: "idle in transaction".to_string(), age_s }
    }

    const CASES: [Case<PostgresFacts>; 25] = [
        (|facts| facts.version = 120_000, Severity::Problem, "13 or later"),
        (|facts| facts.standby = true, Severity::Problem, "primary"),
        (|facts| facts.connections = (95, 100), Severity::Warning, "max_connections"),
        (|facts| facts.clock_ahead_ms = 1_500, Severity::Warning, "1500 ms ahead"),
        (|facts| facts.clock_ahead_ms = -70_000, Severity::Problem, "70000 ms behind"),
        (|facts| set(facts, "fsync", "off"), Severity::Problem, "fsync is off"),
        (|facts| set(facts, "full_page_writes", "off"), Severity::Problem, "full_page_writes"),
        (|facts| set(facts, "autovacuum", "off"), Severity::Problem, "autovacuum is off"),
        (|facts| set(facts, "track_counts", "off"), Severity::Problem, "track_counts"),
        (|facts| set(facts, "default_transaction_read_only", "on"), Severity::Problem, "alter role"),
        (|facts| set(facts, "synchronous_commit", "off"), Severity::Warning, "loses its last"),
        (|facts| facts.missing_rights.push("DELETE on x".to_string()), Severity::Problem, "DELETE on x"),
        (|facts| facts.sees_sessions = false, Severity::Warning, "pg_read_all_stats"),
        (|facts| facts.table.autovacuum_off = true, Severity::Problem, "reset (autovacuum_enabled)"),
        (|facts| facts.table.dead = 300_000, Severity::Warning, "300000 dead rows"),
        (|facts| facts.table.table_bytes = 5_000_000_000, Severity::Warning, "vacuum full"),
        (|facts| facts.table.index_bytes = 5_000_000_000, Severity::Warning, "vacuum full"),
        (|facts| facts.long_transactions.push(long(400)), Severity::Warning, "pg_terminate_backend(7)"),
        (|facts| facts.long_transactions.push(long(4_000)), Severity::Problem, "idle in transaction"),
        (
            |facts| {
                let (name, owner) = ("it's".to_string(), "app".to_string());
                facts.prepared.push(PreparedTransaction { name, owner, age_s: 300 });
            },
            Severity::Problem,
            "'it''s'",
        ),
        (
            |facts| facts.slots.push(SlotFacts { name: "s".to_string(), active: false, age: 1 }),
            Severity::Warning,
            "pg_drop_replication_slot('s')",
        ),
        (
            |facts| facts.slots.push(SlotFacts { name: "s".to_string(), active: true, age: 2_000_000 }),
            Severity::Warning,
            "far behind",
        ),
        // The answer took long enough to explain it.
        (
            |facts| (facts.clock_ahead_ms, facts.clock_inexact_ms) = (1_500, 2_000),
            Severity::Ok,
            "500 ms ahead",
        ),
        (|facts| facts.long_transactions.push(long(299)), Severity::Ok, "open for long"),
        // A backlog is large, and not bloat.
        (
            |facts| (facts.table.table_bytes, facts.table.live) = (5_000_000_000, 4_000_000),
            Severity::Ok,
            "4000000 live rows",
        ),
    ];

    fn judged(plant: fn(&mut PostgresFacts)) -> Findings {
        let mut facts = healthy();
        plant(&mut facts);
        let mut findings = Findings::default();
        judge(&mut findings, "orders", &facts);
        findings
    }

    #[test]
    fn each_fault_is_found_and_nothing_else() {
        assert_each_found(CASES, judged);
    }
}
