//! The decision log in a file: what only this backend owes beside the conformance suite. What another
//! process does is done by this program, started again for one test: [`another_process`].

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use onecommit::ErrorKind;
use onecommit::decision_log::file::FileDecisionLog;
use onecommit::decision_log::{DecisionLog, LogSession};
use onecommit::id::{CoordinatorId, Incarnation};
use onecommit::protocol::batch::Answer;
use rusqlite::Connection;

use crate::conformance_decision_log::{self as conformance, decide, record, request, taken};

const DATA_DIR: &str = "ONECOMMIT_TEST_DATA_DIR";
const COORDINATOR: &str = "ONECOMMIT_TEST_COORDINATOR";
const INCARNATION: &str = "ONECOMMIT_TEST_INCARNATION";
const READY: &str = "the coordinator is registered";

#[tokio::test(flavor = "multi_thread")]
async fn the_file_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let fresh = async || {
        let data_dir = directory.path().join(CoordinatorId::random().to_string());
        Box::new(FileDecisionLog::new(data_dir, Incarnation::random())) as Box<dyn DecisionLog>
    };
    conformance::suite(fresh).await;
}

#[tokio::test]
async fn who_is_killed_is_dead_and_who_is_paused_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (session, incarnation) = opened(directory.path()).await;
    let id = CoordinatorId::random();
    let mut other = start(directory.path(), incarnation, id);
    let is_live = async || session.coordinators().await.unwrap()[0].is_live;
    assert!(is_live().await);
    assert_eq!(session.take_over(id).await.unwrap(), None);
    signal(&other, "-STOP");
    assert!(is_live().await);
    assert_eq!(session.take_over(id).await.unwrap(), None);
    signal(&other, "-KILL");
    let legacy = taken(&session, id).await;
    assert_eq!(legacy.batches.len(), 1);
    other.wait().unwrap();
    assert!(is_live().await, "it is being recovered");
}

/// As a program does that copies its data folder: the lock is lost by that.
#[tokio::test]
async fn who_has_lost_the_lock_by_opening_the_file_again_is_alive() {
    let directory = tempfile::tempdir().unwrap();
    let (session, incarnation) = opened(directory.path()).await;
    let (id, others) = (CoordinatorId::random(), CoordinatorId::random());
    let fence = session.register(id, &record(1)).await.unwrap();
    std::fs::read(directory.path().join(format!("coordinators/{id}.lock"))).unwrap();
    // The other process tries to take over before it is ready.
    let mut other = start(directory.path(), incarnation, others);
    assert_eq!(decide(&session, fence, &request(0, &[1], &[])).await, Answer::Done);
    assert!(session.coordinators().await.unwrap().iter().all(|found| found.is_live));
    signal(&other, "-KILL");
    other.wait().unwrap();
}

/// Not a test of its own: what [`start`] has done by another process.
#[tokio::test]
async fn another_process() {
    let Ok(data_dir) = std::env::var(DATA_DIR) else { return };
    let variable = |name| std::env::var(name).unwrap();
    let log = FileDecisionLog::new(data_dir, variable(INCARNATION).parse().unwrap());
    let session = log.open().await.unwrap();
    for found in session.coordinators().await.unwrap() {
        assert!(found.is_live && session.take_over(found.coordinator).await.unwrap().is_none());
    }
    let fence = session.register(variable(COORDINATOR).parse().unwrap(), &record(1)).await.unwrap();
    assert_eq!(decide(&session, fence, &request(0, &[1], &[])).await, Answer::Done);
    println!("{READY}");
    // Until it is killed, or whoever started it is gone.
    let _ = std::io::stdin().lines().next();
}

/// Another process, in which a coordinator has decided something.
fn start(data_dir: &Path, incarnation: Incarnation, coordinator: CoordinatorId) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "decision_log_file::another_process", "--nocapture"])
        .env(DATA_DIR, data_dir)
        .env(INCARNATION, incarnation.to_string())
        .env(COORDINATOR, coordinator.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(said.map_while(Result::ok).any(|line| line.ends_with(READY)), "it ended: {:?}", child.wait());
    child
}

fn signal(child: &Child, flag: &str) {
    assert!(Command::new("kill").args([flag, &child.id().to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn a_file_of_another_incarnation_or_kind_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_, incarnation) = opened(directory.path()).await;
    let (file, others) = (directory.path().join("decisions.db"), Incarnation::random());
    let refused = FileDecisionLog::new(directory.path(), others).open().await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    for said in [incarnation.to_string(), others.to_string(), file.display().to_string()] {
        assert!(refused.to_string().contains(&said), "{refused}");
    }
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let refused = FileDecisionLog::new(directory.path(), incarnation).open().await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("version 9"), "{refused}");
}

#[tokio::test]
async fn what_is_damaged_is_refused_and_not_fenced() {
    let directory = tempfile::tempdir().unwrap();
    let (owner, incarnation) = opened(directory.path()).await;
    let id = CoordinatorId::random();
    let fence = owner.register(id, &record(1)).await.unwrap();
    decide(&owner, fence, &request(3, &[1], &[])).await;
    owner.let_go(id).await.unwrap();
    let recoverer = FileDecisionLog::new(directory.path(), incarnation).open().await.unwrap();
    let connection = Connection::open(directory.path().join("decisions.db")).unwrap();
    for (damage, said) in [
        ("update decision set bytes = x'01'", "batch: 3"),
        ("update decision set bytes = x'02'", "later release"),
        ("update coordinator set record = x'017b7d'", "coordinator: "),
    ] {
        connection.execute(damage, ()).unwrap();
        for refused in [recoverer.take_over(id).await.err(), recoverer.look(id).await.err()] {
            let refused = refused.unwrap();
            assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
            assert!(refused.to_string().contains(said), "{refused}");
        }
        assert!(!recoverer.coordinators().await.unwrap()[0].is_live, "whoever understands it need not wait");
    }
    let still = decide(&owner, fence, &request(4, &[2], &[])).await;
    assert_eq!(still, Answer::Done, "nothing was touched");
}

#[tokio::test]
async fn what_goes_into_a_file_that_is_gone_is_not_decided() {
    let directory = tempfile::tempdir().unwrap();
    let (session, _) = opened(directory.path()).await;
    let fence = session.register(CoordinatorId::random(), &record(1)).await.unwrap();
    let (file, aside) = (directory.path().join("decisions.db"), directory.path().join("aside.db"));
    std::fs::rename(&file, &aside).unwrap();
    assert_eq!(session.decide(fence, &request(0, &[1], &[])).await, Answer::Lost);
    assert_eq!(session.record(fence, &record(2)).await.unwrap_err().kind(), ErrorKind::Unclear);
    assert!(session.is_over());
    std::fs::copy(&aside, &file).unwrap();
    assert_eq!(session.decide(fence, &request(1, &[2], &[])).await, Answer::Lost, "another file");
    assert!(session.coordinators().await.unwrap_err().is_retriable());
    std::fs::rename(&aside, &file).unwrap();
    assert!(!session.is_over());
    assert_eq!(session.decide(fence, &request(2, &[3], &[])).await, Answer::Done);
}

async fn opened(data_dir: &Path) -> (Box<dyn LogSession>, Incarnation) {
    let incarnation = Incarnation::random();
    (FileDecisionLog::new(data_dir, incarnation).open().await.unwrap(), incarnation)
}
