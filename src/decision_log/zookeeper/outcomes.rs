//! How transactions ended, in nodes of many: a coordinator that dies under load leaves more outcomes at
//! once than ZooKeeper should have nodes. A node is named by its coordinator and the first transaction in
//! it; a version byte, then JSON.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use zookeeper_client as zk;

use super::decide::is_fenced;
use super::nodes::{Store, foreign};
use crate::decision_log::Fence;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{CoordinatorId, TransactionId};
use crate::protocol::decision::{Outcome, later_format};
use crate::zookeeper::Effect;

const VERSION: u8 = 1;
/// With numbers of 20 digits these are 190 kB.
const OUTCOMES_PER_NODE: usize = 5000;
const DAY: Duration = Duration::from_secs(24 * 3600);

type Outcomes = BTreeMap<u64, Outcome>;

/// A node to be made.
pub(super) struct NewNode {
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
}

/// A node that is there.
struct Kept {
    path: String,
    version: i32,
    created_ms: i64,
    outcomes: Outcomes,
}

/// What is to be done to a node.
#[derive(Debug, PartialEq, Eq)]
enum Forget {
    Nothing,
    /// Only these stay.
    Earlier(Outcomes),
    All,
}

impl Store {
    pub(super) async fn keep_outcomes(
        &self,
        fence: Fence,
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<()> {
        for node in self.unkept(outcomes).await? {
            self.keep(fence, node).await?;
        }
        Ok(())
    }

    /// The nodes for those outcomes that are not kept yet: they were, where an answer was lost.
    pub(super) async fn unkept(&self, outcomes: &[(TransactionId, Outcome)]) -> Result<Vec<NewNode>> {
        const OPERATION: &str = "keep outcomes";
        let mut wanted: BTreeMap<CoordinatorId, Outcomes> = BTreeMap::new();
        for (transaction, outcome) in outcomes {
            wanted.entry(transaction.coordinator).or_default().insert(transaction.number, *outcome);
        }
        let mut nodes = Vec::new();
        for (coordinator, mut outcomes) in wanted {
            for kept in self.kept(OPERATION, |first| first.coordinator == coordinator).await? {
                outcomes.retain(|number, _| !kept.outcomes.contains_key(number));
            }
            let outcomes: Vec<(u64, Outcome)> = outcomes.into_iter().collect();
            for part in outcomes.chunks(OUTCOMES_PER_NODE) {
                let path = self.paths.outcomes(TransactionId { coordinator, number: part[0].0 });
                nodes.push(NewNode { path, bytes: encode(&part.iter().copied().collect()) });
            }
        }
        Ok(nodes)
    }

    pub(super) async fn keep(&self, fence: Fence, node: NewNode) -> Result<()> {
        const OPERATION: &str = "keep outcomes";
        let failed = |error| self.error(OPERATION, Effect::Possible, error).with("path", &node.path);
        let mut writer = self.fenced_writer(fence).map_err(failed)?;
        writer.add_create(&node.path, &node.bytes, &self.persistent()).map_err(failed)?;
        failpoint!("zookeeper_log.keep_outcomes.before_commit")?;
        match self.connection.commit(writer).await {
            Ok(_) => {}
            Err(error) if is_fenced(&error) => return Err(fenced(OPERATION, fence.coordinator)),
            Err(error) => return Err(failed(error.into())),
        }
        failpoint!("zookeeper_log.keep_outcomes.after_commit")
    }

    pub(super) async fn outcome(&self, transaction: TransactionId) -> Result<Option<Outcome>> {
        const OPERATION: &str = "read outcome";
        self.sync(OPERATION).await?;
        let may_hold = |first: TransactionId| {
            first.coordinator == transaction.coordinator && first.number <= transaction.number
        };
        let kept = self.kept(OPERATION, may_hold).await?;
        Ok(kept.iter().find_map(|kept| kept.outcomes.get(&transaction.number).copied()))
    }

    /// Counted by the servers' clock when they were written, and by this machine's now: one that is wrong
    /// by days forgets too early or too late, and who asks then is told that they are not kept.
    pub(super) async fn forget_outcomes(&self, days: u32, most: usize) -> Result<u64> {
        const OPERATION: &str = "forget outcomes";
        self.sync(OPERATION).await?;
        let kept = self.kept(OPERATION, |_| true).await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let oldest_ms = now.saturating_sub(DAY * days).as_millis() as i64;
        let mut forgotten = 0;
        for (kept, forget) in plan(kept, oldest_ms, most) {
            let after = match &forget {
                Forget::Nothing => continue,
                Forget::Earlier(outcomes) => outcomes.len(),
                Forget::All => 0,
            };
            self.forget(OPERATION, &kept, forget).await?;
            forgotten += (kept.outcomes.len() - after) as u64;
        }
        Ok(forgotten)
    }

    /// Another node may forget the same at the same time: then it is done already.
    async fn forget(&self, operation: &'static str, kept: &Kept, forget: Forget) -> Result<()> {
        let (connection, version) = (&self.connection, Some(kept.version));
        failpoint!("zookeeper_log.forget_outcomes.before_commit")?;
        let done = match forget {
            Forget::Earlier(outcomes) => {
                let bytes = encode(&outcomes);
                connection.call(connection.client().set_data(&kept.path, &bytes, version)).await.map(|_| ())
            }
            _ => connection.call(connection.client().delete(&kept.path, version)).await,
        };
        match done {
            Ok(()) | Err(zk::Error::NoNode | zk::Error::BadVersion) => {}
            Err(error) => {
                return Err(self.error(operation, Effect::Possible, error).with("path", &kept.path));
            }
        }
        failpoint!("zookeeper_log.forget_outcomes.after_commit")
    }

    /// The nodes with outcomes that begin with a transaction of which `is_wanted` says so.
    async fn kept(
        &self,
        operation: &'static str,
        is_wanted: impl Fn(TransactionId) -> bool,
    ) -> Result<Vec<Kept>> {
        let folder = self.paths.all_outcomes();
        let mut paths = Vec::new();
        for name in self.folder(operation, &folder).await? {
            // Other names are not ours, and in nobody's way.
            if name.parse().is_ok_and(&is_wanted) {
                paths.push(format!("{folder}/{name}"));
            }
        }
        let mut kept = Vec::new();
        for (path, found) in paths.iter().zip(self.read(operation, &paths).await?) {
            let Some(found) = found else { continue };
            let outcomes = decode(operation, &found.data).map_err(|error| error.with("path", path))?;
            let (path, version, created_ms) = (path.clone(), found.version, found.created_ms);
            kept.push(Kept { path, version, created_ms, outcomes });
        }
        Ok(kept)
    }
}

/// Says that somebody else has taken over.
pub(super) fn fenced(operation: &'static str, coordinator: CoordinatorId) -> Error {
    let why = "another node has taken over: nothing more is decided or settled under this right";
    Error::new(ErrorKind::Fenced, operation, why).with("coordinator", coordinator)
}

/// Forgets what was made before `oldest_ms`, and of the rest all but the latest `most`. In a node that is
/// made at once, later numbers are later.
fn plan(mut kept: Vec<Kept>, oldest_ms: i64, most: usize) -> Vec<(Kept, Forget)> {
    kept.sort_by(|one, other| (other.created_ms, &other.path).cmp(&(one.created_ms, &one.path)));
    let mut room = most;
    let decide = |kept: Kept| {
        let stay = if kept.created_ms <= oldest_ms { 0 } else { kept.outcomes.len().min(room) };
        room -= stay;
        let forget = match kept.outcomes.len() - stay {
            0 if stay > 0 => Forget::Nothing,
            over if stay > 0 => Forget::Earlier(kept.outcomes.clone().into_iter().skip(over).collect()),
            _ => Forget::All,
        };
        (kept, forget)
    };
    kept.into_iter().map(decide).collect()
}

fn encode(outcomes: &Outcomes) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, outcomes).expect("plain data into memory can't fail");
    bytes
}

fn decode(operation: &'static str, bytes: &[u8]) -> Result<Outcomes> {
    match bytes.split_first() {
        Some((&VERSION, json)) => {
            serde_json::from_slice(json).map_err(|error| foreign(operation).caused_by(error))
        }
        Some((version, _)) if *version > VERSION => Err(later_format(operation, *version, VERSION)),
        _ => Err(foreign(operation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcomes(numbers: impl IntoIterator<Item = u64>) -> Outcomes {
        numbers.into_iter().map(|number| (number, Outcome::Committed)).collect()
    }

    fn kept(created_ms: i64, numbers: impl IntoIterator<Item = u64>) -> Kept {
        Kept { path: format!("/{created_ms}"), version: 0, created_ms, outcomes: outcomes(numbers) }
    }

    fn planned(kept: Vec<Kept>, oldest_ms: i64, most: usize) -> Vec<(i64, Forget)> {
        plan(kept, oldest_ms, most).into_iter().map(|(kept, forget)| (kept.created_ms, forget)).collect()
    }

    #[test]
    fn the_old_and_the_earliest_are_forgotten() {
        let some = || vec![kept(10, [1]), kept(30, 5..9), kept(20, 2..5)];
        let all = [(30, Forget::Nothing), (20, Forget::Nothing), (10, Forget::Nothing)];
        assert_eq!(planned(some(), 9, 8), all);
        assert_eq!(planned(some(), 10, 8)[2], (10, Forget::All));
        assert_eq!(planned(some(), 9, 7)[2], (10, Forget::All));
        let trimmed = planned(some(), 9, 5);
        assert_eq!(trimmed[0], (30, Forget::Nothing));
        assert_eq!(trimmed[1], (20, Forget::Earlier(outcomes([4]))));
        assert_eq!(trimmed[2], (10, Forget::All));
        assert!(planned(some(), 30, 8).iter().all(|(_, forget)| *forget == Forget::All));
    }

    proptest! {
        #[test]
        fn outcomes_come_back(outcomes in prop::collection::btree_map(any::<u64>(), any::<bool>(), 0..20)) {
            let outcome = |is| if is { Outcome::Committed } else { Outcome::RolledBack };
            let outcomes: Outcomes =
                outcomes.into_iter().map(|(number, committed)| (number, outcome(committed))).collect();
            prop_assert_eq!(decode("read", &encode(&outcomes)).unwrap(), outcomes);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode("read", &bytes);
        }
    }

    #[test]
    fn the_format_never_changes() {
        let both = Outcomes::from([(17, Outcome::Committed), (9, Outcome::RolledBack)]);
        assert_eq!(encode(&both), b"\x01{\"9\":\"rolled_back\",\"17\":\"committed\"}");
        let most = (u64::MAX - OUTCOMES_PER_NODE as u64 + 1..=u64::MAX).map(|n| (n, Outcome::RolledBack));
        assert!(encode(&most.collect()).len() < 190_000);
        assert!(decode("read", b"\x02{}").unwrap_err().to_string().contains("later release"));
    }
}
