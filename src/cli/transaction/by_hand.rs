//! What a person can do to a prepared branch, as it is printed.

use serde_json::{Value, json};

use crate::coordinator::SeenBranch;
use crate::protocol::branch::BranchName;

/// Names have no quote in them.
pub(super) fn commit(name: &BranchName) -> String {
    format!("commit prepared '{name}';")
}

pub(super) fn roll_back(name: &BranchName) -> String {
    format!("rollback prepared '{name}';")
}

pub(super) fn branch_as_json(branch: &SeenBranch) -> Value {
    let SeenBranch { name, owner, age } = branch;
    json!({
        "transaction": name.transaction.to_string(), "participant": name.participant.as_str(),
        "branch": name.to_string(), "owner": owner, "age_ms": u64::try_from(age.as_millis()).ok(),
    })
}
