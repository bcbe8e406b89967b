//! Every durable step of a transaction, at which a process is killed, or does not hear that it went through:
//! afterwards both databases have the same, and so has Kafka; what was told is true, and nothing is prepared
//! any more. How long that took stands in `target/tmp/settle-times.csv`.
//!
//! The process is this program, started again for one test: [`process::another_process`].

mod arrival;
mod process;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::{Deref, DerefMut};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::decision::Outcome;
use zookeeper_client as zk;

use self::process::{PLACE, TOLD, WAY, message, write};
use super::recovery::{Died, close_behind, die, die_together, prepare_orphan};
use super::{LONG, Log, Place, SHORT, begin, connect};
use crate::patience::{LIMIT, until};
use crate::zookeeper_server;

const FAILPOINTS_LOG: &str = "ONECOMMIT_FAILPOINTS_LOG";
const SIGKILL: i32 = 9;
const PAUSE: Duration = Duration::from_millis(20);
/// The history of every coordinator is lost, and comes back.
const LOST: &str = "create table kept as select id, mark from onecommit.coordinator; \
                    update onecommit.coordinator set mark = 0";
const FOUND: &str = "update onecommit.coordinator c set mark = k.mark from kept k where k.id = c.id";

/// How a process gets to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It makes transactions.
    Work,
    /// It settles what another one has left, one transaction undecided and one decided.
    Recover,
    /// It ends a branch that was prepared behind the end of its coordinator.
    Orphan,
    /// It is opened.
    Open,
    /// It does not wait for what is decided of its transactions.
    Doubt,
    /// It forgets an outcome, and what a removal left that was cut off.
    Forget,
    /// It takes over what it may not settle, and is closed.
    LetGo,
    /// It makes transactions that take the same lock.
    Lock,
}

/// The steps of both decision logs, without its name before them.
const LOG_STEPS: [(Way, &str); 9] = [
    (Way::Work, "register"),
    (Way::Work, "record"),
    (Way::Work, "decide"),
    (Way::Recover, "take_over"),
    (Way::Recover, "keep_outcomes"),
    (Way::Recover, "remove"),
    (Way::Orphan, "adopt_orphan"),
    (Way::Doubt, "keep_outcomes"),
    (Way::Forget, "forget_outcomes"),
];
const ZOOKEEPER_STEPS: [(Way, &str); 2] = [(Way::Forget, "discard"), (Way::LetGo, "let_go")];
/// Of locks, without the store's name before them.
const LOCK_STEPS: [&str; 5] = ["enter", "leave", "note_wait", "forget_wait", "discard"];
const FILE_LOCK_STEPS: [&str; 1] = ["open"];
const ZOOKEEPER_LOCK_STEPS: [&str; 1] = ["position"];
const PARTICIPANT_STEPS: [(Way, &str); 7] = [
    (Way::Lock, "raise_lock_floor"),
    (Way::Work, "open_history"),
    (Way::Work, "mark"),
    (Way::Work, "end"),
    (Way::Recover, "end"),
    (Way::Recover, "close_history"),
    (Way::Open, "forget_histories"),
];

async fn every_step(log: Log, way: Way) {
    let room = if log == Log::File { "file_log" } else { "zookeeper_log" };
    let only: &[(Way, &str)] = if log == Log::File { &[] } else { &ZOOKEEPER_STEPS };
    let of_log = LOG_STEPS.iter().chain(only).map(|(way, step)| (*way, format!("{room}.{step}")));
    let lock_room = if log == Log::File { "file_lock" } else { "zookeeper_lock" };
    let only = if log == Log::File { &FILE_LOCK_STEPS } else { &ZOOKEEPER_LOCK_STEPS };
    let of_locks = LOCK_STEPS.iter().chain(only).map(|step| (Way::Lock, format!("{lock_room}.{step}")));
    let of_participant = PARTICIPANT_STEPS.iter().map(|(way, step)| (*way, format!("participant.{step}")));
    for (_, step) in of_log.chain(of_participant).chain(of_locks).filter(|(of, _)| *of == way) {
        for point in ["before_commit=kill", "after_commit=kill", "after_commit=error"] {
            // The first of many is often a special one.
            let is_of_many = match way {
                Way::Work => !step.ends_with("register") && !step.ends_with("open_history"),
                Way::Lock => ["enter", "leave", "wait"].iter().any(|end| step.ends_with(end)),
                _ => false,
            };
            let hit = if is_of_many { 3 } else { 1 };
            goes_through(log, way, &format!("{step}.{point}@{hit}")).await;
        }
    }
}

async fn goes_through(log: Log, way: Way, failpoint: &str) {
    let mut place = Place::with_sessions_of(log, SHORT).await;
    let outcomes = leave_work(&place, way).await;
    let told = meet(&place, way, failpoint).await;
    place.session_timeout = LONG;
    if way == Way::LetGo {
        connect(&place.urls[0]).await.batch_execute(FOUND).await.unwrap();
    }
    let dead_since = Instant::now();
    let node = place.node();
    place.settled().await;
    note(log, way, failpoint, dead_since.elapsed());
    if way == Way::Forget && log == Log::Zookeeper {
        let folders = async || Ok(decisions(&place).await);
        until("no decision is left without a record", folders, |folders| folders.is_empty()).await;
    }
    let session = place.session().await;
    for (id, outcome) in outcomes {
        let kept = until("it is kept", async || session.outcome(id).await, |kept| kept.is_some()).await;
        assert_eq!(kept, Some(outcome), "{failpoint}");
    }
    agrees(&place, &told, failpoint).await;
    // It all works, whatever was left.
    let clients = place.clients().await;
    let mut transaction = begin(&node, &clients).await.unwrap();
    transaction.lock(&process::account(), None).await.unwrap();
    write(&clients, -1).await;
    transaction.publish(message(&place, -1), None).unwrap();
    transaction.commit().await.unwrap();
    node.close().await;
    if matches!(way, Way::Work | Way::Doubt | Way::Recover) {
        let mut expected = agrees(&place, &told, failpoint).await;
        if way == Way::Recover {
            expected.insert(format!("{:?}", Died::Decided));
        }
        arrival::arrives(&place, expected, failpoint).await;
    }
}

/// What the process will find; returns how the transactions that are left have to end.
async fn leave_work(place: &Place, way: Way) -> Vec<(TransactionId, Outcome)> {
    match way {
        Way::Work | Way::Open | Way::Doubt | Way::Lock => {}
        Way::Recover => {
            // A runtime of its own is stopped in it.
            let left = place.copy();
            let dying = [(Died::Undecided, 3), (Died::Decided, 1)];
            let die = move || die_together(&left, &dying);
            let ids = tokio::task::spawn_blocking(die).await.unwrap();
            return ids.into_iter().zip([Outcome::RolledBack, Outcome::Committed]).collect();
        }
        Way::Orphan => close_behind(place, &prepare_orphan(place, 2).await).await,
        Way::Forget => leave_what_can_be_forgotten(place).await,
        Way::LetGo => {
            leave(place, Died::Undecided).await;
            connect(&place.urls[0]).await.batch_execute(LOST).await.unwrap();
            let session = place.lasting().session().await;
            let all = async || session.coordinators().await;
            until("the death is noticed", all, |all| all.iter().all(|one| !one.is_live)).await;
        }
    }
    Vec::new()
}

/// Runs the process until it has met the step, and ended; returns what it was told.
async fn meet(place: &Place, way: Way, failpoint: &str) -> BTreeSet<i32> {
    let is_killed = failpoint.contains("=kill");
    let mut process = start(place, way, failpoint);
    let told = match (way, is_killed) {
        (Way::Work | Way::Doubt | Way::Lock, _) => told(&mut process),
        (_, true) => BTreeSet::new(),
        (_, false) => {
            until("it goes on by itself", async || Ok(has_hit(place, failpoint)), |has_hit| *has_hit).await;
            if matches!(way, Way::Recover | Way::Orphan) {
                place.settled().await;
            }
            process.kill().unwrap();
            BTreeSet::new()
        }
    };
    let status = ended(&mut process).await;
    assert!(has_hit(place, failpoint), "{failpoint} was never reached: {status}");
    if is_killed || !matches!(way, Way::Work | Way::Doubt | Way::Lock) {
        assert_eq!(status.signal(), Some(SIGKILL), "{failpoint}");
    } else {
        assert!(status.success(), "{failpoint}: {status}");
    }
    told
}

/// How long it took from a process's end until nothing was prepared any more, for whoever wants to know.
fn note(log: Log, way: Way, failpoint: &str, took: Duration) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("settle-times.csv");
    let mut times = OpenOptions::new().append(true).create(true).open(path).unwrap();
    writeln!(times, "{log:?},{way:?},{failpoint},{}", took.as_millis()).unwrap();
}

/// Returns the transactions that both databases have.
async fn agrees(place: &Place, told: &BTreeSet<i32>, failpoint: &str) -> BTreeSet<String> {
    let mut entries = Vec::new();
    for client in place.clients().await {
        let rows = client.query("select number from entry", &[]).await.unwrap();
        entries.push(rows.iter().map(|row| row.get(0)).collect::<BTreeSet<i32>>());
    }
    assert_eq!(entries[0], entries[1], "{failpoint}: torn");
    assert!(told.is_subset(&entries[0]), "{failpoint}: {told:?} was told, {:?} is there", entries[0]);
    let totals = place.totals().await;
    assert_eq!(totals[0] + totals[1], 200, "{failpoint}");
    entries[0].iter().map(i32::to_string).collect()
}

/// Another process. It is killed at the latest when this is dropped: otherwise one that waits for its end
/// would go on behind a test that failed.
pub(super) struct Other(pub(super) Child);

impl Deref for Other {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Other {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a process ended; one that goes on was never killed.
pub(super) async fn ended(process: &mut Other) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > LIMIT {
            process.kill().unwrap();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a coordinator leaves that dies there.
async fn leave(place: &Place, died: Died) {
    let left = place.copy();
    // A runtime of its own is stopped in it.
    tokio::task::spawn_blocking(move || die(&left, died)).await.unwrap();
}

/// An outcome; and in ZooKeeper decisions of a coordinator whose record is removed already.
async fn leave_what_can_be_forgotten(place: &Place) {
    leave(place, Died::Undecided).await;
    let place = place.lasting();
    let node = place.node();
    let session = place.session().await;
    until("all is settled", async || session.coordinators().await, |all| all.is_empty()).await;
    node.close().await;
    if place.log == Log::Zookeeper {
        let client = zookeeper_server::client().await;
        let mode = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        let folder = format!("/onecommit/{}/decisions/{}", place.namespace, CoordinatorId::random());
        client.create(&folder, b"", &mode).await.unwrap();
        client.create(&format!("{folder}/{:020}", 0), b"", &mode).await.unwrap();
    }
}

/// The coordinators that have decisions in ZooKeeper.
async fn decisions(place: &Place) -> Vec<String> {
    let client = zookeeper_server::client().await;
    client.list_children(&format!("/onecommit/{}/decisions", place.namespace)).await.unwrap()
}

fn start(place: &Place, way: Way, failpoint: &str) -> Other {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["coordinator::crash::process::another_process", "--exact", "--nocapture"]);
    command.env(PLACE, place.to_text()).env(WAY, format!("{way:?}"));
    command.env("ONECOMMIT_FAILPOINTS", failpoint).env(FAILPOINTS_LOG, log_of(place, failpoint));
    Other(command.stdout(Stdio::piped()).spawn().unwrap())
}

fn log_of(place: &Place, failpoint: &str) -> std::path::PathBuf {
    place.directory.join(failpoint.split('=').next().unwrap_or_default())
}

fn has_hit(place: &Place, failpoint: &str) -> bool {
    says_hit(&log_of(place, failpoint))
}

pub(super) fn says_hit(log: &Path) -> bool {
    std::fs::read_to_string(log).is_ok_and(|text| text.contains(" hit"))
}

/// What it was told, until it ends.
fn told(process: &mut Other) -> BTreeSet<i32> {
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let numbers = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix(TOLD)?.parse().ok());
    numbers.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_transaction_decided_in_a_file() {
    every_step(Log::File, Way::Work).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_transaction_decided_in_zookeeper() {
    every_step(Log::Zookeeper, Way::Work).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_recovery_from_a_file() {
    every_step(Log::File, Way::Recover).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_recovery_from_zookeeper() {
    every_step(Log::Zookeeper, Way::Recover).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_ending_an_orphan_with_the_log_in_a_file() {
    every_step(Log::File, Way::Orphan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_ending_an_orphan_with_the_log_in_zookeeper() {
    every_step(Log::Zookeeper, Way::Orphan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_opening() {
    every_step(Log::File, Way::Open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_keeping_what_a_caller_did_not_wait_for_in_a_file() {
    every_step(Log::File, Way::Doubt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_keeping_what_a_caller_did_not_wait_for_in_zookeeper() {
    every_step(Log::Zookeeper, Way::Doubt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_forgetting_in_a_file() {
    every_step(Log::File, Way::Forget).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_forgetting_in_zookeeper() {
    every_step(Log::Zookeeper, Way::Forget).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_giving_up_in_zookeeper() {
    every_step(Log::Zookeeper, Way::LetGo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_lock_in_a_file() {
    every_step(Log::File, Way::Lock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_lock_in_zookeeper() {
    every_step(Log::Zookeeper, Way::Lock).await;
}

/// A process is killed between the decision and its application, with a lock: whoever gets that next finds all of it
/// applied, in both databases.
async fn the_next_one_reads_what_a_killed_holder_decided(log: Log) {
    let room = if log == Log::File { "file_log" } else { "zookeeper_log" };
    let failpoint = format!("{room}.decide.after_commit=kill@3");
    // What was put there may be deletions only, as they come by time: then it was killed elsewhere.
    for _ in 0..20 {
        let mut place = Place::with_sessions_of(log, SHORT).await;
        let told = meet(&place, Way::Lock, &failpoint).await;
        place.session_timeout = LONG;
        let left = place.prepared().await;
        let (node, clients) = (place.node(), place.clients().await);
        let mut next = begin(&node, &clients).await.unwrap();
        next.lock(&process::account(), None).await.unwrap();
        let behind = place.prepared().await;
        let there = agrees(&place, &told, &failpoint).await.len();
        next.commit().await.unwrap();
        node.close().await;
        if (left, there) == (2, told.len() + 1) {
            assert_eq!(behind, 0, "locked before all was applied");
            return;
        }
    }
    panic!("never killed behind a decision");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_a_killed_holder_is_free_once_all_is_applied_with_the_log_in_a_file() {
    the_next_one_reads_what_a_killed_holder_decided(Log::File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_a_killed_holder_is_free_once_all_is_applied_with_the_log_in_zookeeper() {
    the_next_one_reads_what_a_killed_holder_decided(Log::Zookeeper).await;
}

/// Of the undecided transaction only one branch was prepared, and the recoverer dies behind its end: nothing
/// tells of it any more but what was kept before.
async fn keeps_what_a_dead_recoverer_rolled_back(log: Log) {
    let mut place = Place::with_sessions_of(log, SHORT).await;
    let left = place.copy();
    let id = tokio::task::spawn_blocking(move || die(&left, Died::Undecided)).await.unwrap();
    let orders = connect(&place.urls[0]).await;
    let named = "select gid from pg_prepared_xacts where database = current_database()";
    let name: String = orders.query_one(named, &[]).await.unwrap().get(0);
    orders.batch_execute(&format!("rollback prepared '{name}'")).await.unwrap();
    // Participants are settled in the order of their names.
    let failpoint = "participant.close_history.after_commit=kill@1";
    let status = ended(&mut start(&place, Way::Recover, failpoint)).await;
    assert!(has_hit(&place, failpoint), "{status}");
    assert_eq!(place.prepared().await, 0);
    place.session_timeout = LONG;
    let node = place.node();
    let session = place.session().await;
    let registered = async || session.coordinators().await;
    until("its record is gone", registered, |all| all.iter().all(|one| one.coordinator != id.coordinator))
        .await;
    assert_eq!(session.outcome(id).await.unwrap(), Some(Outcome::RolledBack));
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_is_kept_in_a_file_though_its_recoverer_dies() {
    keeps_what_a_dead_recoverer_rolled_back(Log::File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_is_kept_in_zookeeper_though_its_recoverer_dies() {
    keeps_what_a_dead_recoverer_rolled_back(Log::Zookeeper).await;
}

#[test]
fn no_step_is_missing_here() {
    let mut known = BTreeSet::new();
    for side in ["before_commit", "after_commit"] {
        for (_, step) in LOG_STEPS {
            known.extend(["file_log", "zookeeper_log"].map(|room| format!("{room}.{step}.{side}")));
        }
        known.extend(PARTICIPANT_STEPS.iter().map(|(_, step)| format!("participant.{step}.{side}")));
        for step in LOCK_STEPS {
            known.extend(["file_lock", "zookeeper_lock"].map(|room| format!("{room}.{step}.{side}")));
        }
        known.extend(ZOOKEEPER_LOCK_STEPS.iter().map(|step| format!("zookeeper_lock.{step}.{side}")));
        known.extend(FILE_LOCK_STEPS.iter().map(|step| format!("file_lock.{step}.{side}")));
        known.extend(ZOOKEEPER_STEPS.iter().map(|(_, step)| format!("zookeeper_log.{step}.{side}")));
    }
    let mut found = BTreeSet::new();
    for room in ["participant", "decision_log", "lock", "coordinator"] {
        names_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room), &mut found);
    }
    assert_eq!(known, found);
}

fn names_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names_in(&path, found);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let names = text.split("failpoint!(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.map(str::to_string));
        }
    }
}
