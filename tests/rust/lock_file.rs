//! Locks in a file pass the conformance suite.

use onecommit::decision_log::file::FileDecisionLog;
use onecommit::id::{CoordinatorId, Incarnation};
use onecommit::lock::file::FileLocks;

use crate::conformance_lock::{self as conformance, Stores};

#[tokio::test(flavor = "multi_thread")]
async fn the_file_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let fresh = async || {
        let data_dir = directory.path().join(CoordinatorId::random().to_string());
        let incarnation = Incarnation::random();
        let log = Box::new(FileDecisionLog::new(&data_dir, incarnation));
        Stores { locks: Box::new(FileLocks::new(&data_dir, incarnation)), log }
    };
    conformance::suite(fresh).await;
}
