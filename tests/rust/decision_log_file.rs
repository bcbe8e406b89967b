//! The decision log in a file: what only this backend owes beside the conformance suite. What another
//! process does is done by this program, started again for one test: [`another_process`].

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use onecommit::ErrorKind;
use onecommit::decision_log::file::FileDecisionLog;
use onecommit::decision_log::{DecisionLog, Fence, LogSession};
use onecommit::id::{CoordinatorId, Incarnation};
use onecommit::protocol::batch::Answer;
use rusqlite::Connection;

use crate::conformance_decision_log::{self as conformance, decide, record, request, taken};

const DATA_DIR: &str = "ONECOMMIT_TEST_DATA_DIR";
const COORDINATOR: &str = "ONECOMMIT_TEST_COORDINATOR";
const INCARNATION: &str = "ONECOMMIT_TEST_INCARNATION";
const DEAD: &str = "ONECOMMIT_TEST_DEAD_COORDINATOR";
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
    let other = start(directory.path(), incarnation, id, None);
    let is_live = async || session.coordinators().await.unwrap()[0].is_live;
    assert!(is_live().await);
    assert_eq!(session.take_over(id).await.unwrap(), None);
    other.signal("-STOP");
    // By its name, and by its lock alone, as where the system tells no names.
    for _ in 0..2 {
        assert!(is_live().await);
        assert_eq!(session.take_over(id).await.unwrap(), None);
        std::fs::write(lock(directory.path(), id), "").unwrap();
    }
    other.signal("-KILL");
    let legacy = taken(&session, id).await;
    assert_eq!(legacy.batches.len(), 1);
    assert!(is_live().await, "it is being recovered");
}

#[tokio::test]
async fn what_is_removed_decides_nothing_and_makes_way_for_another_incarnation() {
    let directory = tempfile::tempdir().unwrap();
    let (session, incarnation) = opened(directory.path()).await;
    let id = CoordinatorId::random();
    let fence = session.register(id, &record(1)).await.unwrap();
    let log = FileDecisionLog::new(directory.path(), incarnation);
    assert!(FileDecisionLog::is_in(directory.path()));
    for _ in 0..2 {
        log.remove().unwrap();
        assert!(directory.path().read_dir().unwrap().next().is_none());
    }
    assert_eq!(session.decide(fence, &request(0, &[1], &[])).await, Answer::Lost);
    let (other, _) = opened(directory.path()).await;
    assert_eq!(other.coordinators().await.unwrap(), []);
}

/// As a program does that copies its data folder: the lock is lost by that.
#[tokio::test]
async fn who_has_lost_the_lock_by_opening_the_file_again_is_alive() {
    let directory = tempfile::tempdir().unwrap();
    let (session, incarnation) = opened(directory.path()).await;
    let (id, others) = (CoordinatorId::random(), CoordinatorId::random());
    let fence = session.register(id, &record(1)).await.unwrap();
    std::fs::read(lock(directory.path(), id)).unwrap();
    // The other process looks who is alive, and tries to take over, before it is ready.
    let _other = start(directory.path(), incarnation, others, None);
    assert_eq!(decide(&session, fence, &request(0, &[1], &[])).await, Answer::Done);
    assert!(session.coordinators().await.unwrap().iter().all(|found| found.is_live));
}

#[tokio::test]
async fn what_a_living_process_gave_up_is_dead() {
    let directory = tempfile::tempdir().unwrap();
    let (session, incarnation) = opened(directory.path()).await;
    let id = CoordinatorId::random();
    session.register(id, &record(1)).await.unwrap();
    drop(session);
    start(directory.path(), incarnation, CoordinatorId::random(), Some(id));
}

#[tokio::test]
async fn no_lock_outlasts_its_coordinator() {
    let directory = tempfile::tempdir().unwrap();
    let (session, _) = opened(directory.path()).await;
    let [removed, dead, left, new] = [(); 4].map(|()| CoordinatorId::random());
    for id in [removed, dead] {
        session.register(id, &record(1)).await.unwrap();
    }
    session.remove(Fence { coordinator: removed, number: 0 }, &[], &[]).await.unwrap();
    assert!(!lock(directory.path(), removed).exists());
    session.let_go(dead).await.unwrap();
    // As left by those who were killed before they had a record, or behind its removal.
    let long_ago = SystemTime::now() - Duration::from_secs(48 * 3600);
    for (id, made) in [(dead, long_ago), (left, long_ago), (new, SystemTime::now())] {
        std::fs::File::create(lock(directory.path(), id)).unwrap().set_modified(made).unwrap();
    }
    session.forget_outcomes(7, 5).await.unwrap();
    let there = [dead, left, new].map(|id| lock(directory.path(), id).exists());
    assert_eq!(there, [true, false, true]);
}

/// Not a test of its own: what [`start`] has done by another process.
#[tokio::test]
async fn another_process() {
    let Ok(data_dir) = std::env::var(DATA_DIR) else { return };
    let variable = |name| std::env::var(name).unwrap();
    let log = FileDecisionLog::new(data_dir, variable(INCARNATION).parse().unwrap());
    let session = log.open().await.unwrap();
    for found in session.coordinators().await.unwrap() {
        let is_dead = std::env::var(DEAD) == Ok(found.coordinator.to_string());
        let taken = session.take_over(found.coordinator).await.unwrap();
        assert_eq!((found.is_live, taken.is_some()), (!is_dead, is_dead));
    }
    let fence = session.register(variable(COORDINATOR).parse().unwrap(), &record(1)).await.unwrap();
    assert_eq!(decide(&session, fence, &request(0, &[1], &[])).await, Answer::Done);
    println!("{READY}");
    // Until it is killed, or whoever started it is gone.
    let _ = std::io::stdin().lines().next();
}

/// Another process, in which a coordinator has decided something. Beforehand it takes over from the one that
/// is dead, and can't from any other.
fn start(
    data_dir: &Path,
    incarnation: Incarnation,
    coordinator: CoordinatorId,
    dead: Option<CoordinatorId>,
) -> Other {
    let dead = dead.map(|dead| dead.to_string());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "decision_log_file::another_process", "--nocapture"])
        .env(DATA_DIR, data_dir)
        .env(INCARNATION, incarnation.to_string())
        .env(COORDINATOR, coordinator.to_string())
        .envs(dead.map(|dead| (DEAD, dead)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(said.map_while(Result::ok).any(|line| line.ends_with(READY)), "it ended: {:?}", child.wait());
    Other(child)
}

/// Another process, which ends with the test, paused or not.
struct Other(Child);

impl Other {
    fn signal(&self, flag: &str) {
        assert!(Command::new("kill").args([flag, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

fn lock(data_dir: &Path, coordinator: CoordinatorId) -> PathBuf {
    data_dir.join(format!("coordinators/{coordinator}.lock"))
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
