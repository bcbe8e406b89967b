//! The name under which a participant keeps a prepared branch. Whoever lists prepared transactions
//! tells by it whose they are, so it is read and compared exactly: a branch of another namespace or
//! incarnation, or of another program, is never touched.

use std::fmt;

use crate::id::{Incarnation, Namespace, ParticipantName, TransactionId};

/// The first part of every name. A later form gets another one, and this release leaves it alone.
const FORM: &str = "oc1";
const HOME: &str = "home";

/// PostgreSQL takes names of fewer bytes than this (`GIDSIZE`).
pub const NAME_LIMIT_BYTES: usize = 200;

/// A prepared branch's name.
///
/// ```
/// use onecommit::protocol::branch::BranchName;
/// let name = "oc1:shop:6e4cf0c1-30ab-4ecf-a2f5-0f8f5ee0a6a5:\
///             0f0a4a7e-6ec9-4aa5-8b3f-77c2d0b6f7a1:17:orders:home";
/// let branch: BranchName = BranchName::parse(name).unwrap();
/// assert_eq!((branch.transaction.number, branch.is_home), (17, true));
/// assert_eq!(branch.to_string(), name);
/// assert_eq!(BranchName::parse("somebody's own"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BranchName {
    /// The installation's.
    pub namespace: Namespace,
    /// The installation's: after a wiped ZooKeeper it is another one.
    pub incarnation: Incarnation,
    /// Whose part it is.
    pub transaction: TransactionId,
    /// Where it is.
    pub participant: ParticipantName,
    /// Whether it holds the transaction's messages.
    pub is_home: bool,
}

impl BranchName {
    /// Whether it is of this installation.
    pub fn is_of(&self, namespace: &Namespace, incarnation: Incarnation) -> bool {
        self.namespace == *namespace && self.incarnation == incarnation
    }

    /// Reads a name; None where it is not one of ours, letter by letter.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut next = || parts.next();
        if next()? != FORM {
            return None;
        }
        let branch = BranchName {
            namespace: next()?.parse().ok()?,
            incarnation: next()?.parse().ok()?,
            transaction: TransactionId { coordinator: next()?.parse().ok()?, number: next()?.parse().ok()? },
            participant: next()?.parse().ok()?,
            is_home: next().is_some(),
        };
        // Numbers and ids can be spelled in more than one way, and whatever follows is not ours.
        (branch.to_string() == text).then_some(branch)
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TransactionId { coordinator, number } = self.transaction;
        let (namespace, incarnation, participant) = (&self.namespace, self.incarnation, &self.participant);
        write!(f, "{FORM}:{namespace}:{incarnation}:{coordinator}:{number}:{participant}")?;
        if self.is_home { write!(f, ":{HOME}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::CoordinatorId;
    use proptest::prelude::*;
    use uuid::Uuid;

    prop_compose! {
        fn branch()(
            namespace in "[a-z][a-z0-9-]{0,39}", participant in "[a-z]([a-z0-9]|_[a-z0-9]){0,19}",
            ids in any::<(u128, u128)>(), number in any::<u64>(), is_home in any::<bool>()
        ) -> BranchName {
            BranchName {
                namespace: namespace.parse().unwrap(),
                incarnation: Incarnation(Uuid::from_u128(ids.0)),
                transaction: TransactionId { coordinator: CoordinatorId(Uuid::from_u128(ids.1)), number },
                participant: participant.parse().unwrap(),
                is_home,
            }
        }
    }

    proptest! {
        #[test]
        fn every_name_fits_and_comes_back(branch in branch()) {
            let name = branch.to_string();
            prop_assert!(name.len() < NAME_LIMIT_BYTES);
            prop_assert_eq!(BranchName::parse(&name), Some(branch));
        }

        #[test]
        fn what_is_read_is_written_the_same(branch in branch(), at in any::<prop::sample::Index>(), c in ".") {
            let mut name = branch.to_string();
            name.replace_range(at.index(name.len()).., &c);
            if let Some(found) = BranchName::parse(&name) {
                prop_assert_eq!(found.to_string(), name);
            }
        }
    }

    #[test]
    fn what_is_spelled_otherwise_is_somebody_elses() {
        let (incarnation, coordinator) = (Uuid::from_u128(0xa), Uuid::from_u128(0xb));
        let ours = format!("oc1:shop:{incarnation}:{coordinator}:7:orders");
        assert!(BranchName::parse(&ours).is_some());
        for other in [
            ours.replace("oc1", "oc2"),
            ours.replace(":7:", ":07:"),
            ours.replace(":7:", ":+7:"),
            ours.replace(&coordinator.to_string(), &coordinator.simple().to_string()),
            ours.to_uppercase(),
            format!("{ours}:home:home"),
            format!("{ours}:abroad"),
            format!("{ours}:"),
            format!(" {ours}"),
        ] {
            assert_eq!(BranchName::parse(&other), None, "{other}");
        }
    }
}
