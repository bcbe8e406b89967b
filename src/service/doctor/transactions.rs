//! Transactions over several databases: whether each participant can prepare what it is asked for, and what
//! waits to be settled.

use std::time::Duration;

use super::super::node::{has_transactions, participant};
use super::super::status::survey;
use super::finding::Findings;
use crate::config::{Config, DatabaseUrl};
use crate::coordinator::{CoordinatorState, Survey};
use crate::participant::postgres::ParticipantFacts;

const PLACE: &str = "transactions";
/// What recovery that works has settled by then.
const LONG: Duration = Duration::from_secs(60);

pub(super) async fn judge(findings: &mut Findings, config: &Config) {
    match has_transactions(config).await {
        Ok(false) => return,
        Ok(true) => {}
        Err(error) => return findings.failed(PLACE, &error),
    }
    for (name, configured) in &config.participants {
        let DatabaseUrl::Postgres(url) = &configured.url else { continue };
        let place = format!("participant {name}");
        match participant(config, url).examine().await {
            Ok(facts) => judge_participant(findings, &place, &facts),
            Err(error) => findings.failed(&place, &error.with("participant", name)),
        }
    }
    match survey(config).await {
        Ok(None) => {}
        Ok(Some(survey)) => judge_survey(findings, &survey),
        Err(error) => findings.failed(PLACE, &error),
    }
}

fn judge_participant(findings: &mut Findings, place: &str, facts: &ParticipantFacts) {
    let (prepared, most) = facts.prepared;
    let what =
        format!("{prepared} transactions are prepared on its server, of max_prepared_transactions = {most}");
    if most == 0 {
        let todo = "set max_prepared_transactions = 200 in postgresql.conf, and restart PostgreSQL: without it no \
                    transaction over several databases can commit";
        findings.problem(place, what, todo);
    } else if prepared * 10 >= most * 8 {
        let todo = "settle what is left (below), or raise max_prepared_transactions: where none is free, transactions \
                    are rolled back";
        findings.warning(place, what, todo);
    } else if most < facts.connections_max {
        let todo = format!(
            "raise it to max_connections ({}) or more: each connection can have one prepared, and where none is free, \
             transactions are rolled back",
            facts.connections_max
        );
        findings.warning(place, what, todo);
    } else {
        findings.ok(place, what);
    }
    if facts.missing_rights.is_empty() {
        findings.ok(place, format!("the role {} has the rights that coordinators need", facts.role));
    } else {
        let missing = facts.missing_rights.join(", ");
        let what = format!("the role {} lacks rights that coordinators need: {missing}", facts.role);
        findings.problem(place, what, "let the schema's owner grant them: docs/security.md");
    }
    judge_standbys(findings, place, facts);
}

fn judge_standbys(findings: &mut Findings, place: &str, facts: &ParticipantFacts) {
    let names = facts.synchronous_standbys.as_str();
    match (facts.standbys, names.is_empty()) {
        (0, true) => findings.ok(place, "no standby is connected"),
        (0, false) => findings.warning(
            place,
            format!("no standby is connected, and synchronous_standby_names is {names:?}"),
            "bring the standby back, or take it out of synchronous_standby_names: every commit waits for it",
        ),
        (standbys, true) => findings.warning(
            place,
            format!("{standbys} standbys are connected, none of them synchronous"),
            "set synchronous_standby_names: a failover to an asynchronous standby can lose what was committed, and \
             tear transactions",
        ),
        (standbys, false) => {
            let what = format!("{standbys} standbys are connected, and synchronous_standby_names is {names:?}");
            findings.ok(place, what);
        }
    }
}

fn judge_survey(findings: &mut Findings, survey: &Survey) {
    survey.errors.iter().for_each(|error| findings.failed(PLACE, error));
    for refused in &survey.refusals {
        let todo = "docs/refusals.md has the way on; `onecommit transaction list` names what is prepared, and \
                    `onecommit transaction resolve ID` tells what each participant says of it";
        findings.problem(PLACE, refused.to_string(), todo);
    }
    let count = |state| survey.count(state);
    let (alive, recovering) = (count(CoordinatorState::Alive), count(CoordinatorState::Recovering));
    let left = count(CoordinatorState::Dead) + count(CoordinatorState::Orphan);
    let (in_doubt, oldest) = survey.in_doubt();
    let seconds = oldest.unwrap_or_default().as_secs();
    let what = format!(
        "coordinators: {alive} alive, {recovering} being recovered, {left} dead and not recovered; {in_doubt} \
         transactions in doubt, the oldest for {seconds} s"
    );
    if oldest.is_some_and(|oldest| oldest >= LONG) {
        let todo = "run a relay, or a program that opens onecommit: it settles them, and its log says what keeps it; \
                    until then their locks are held";
        findings.problem(PLACE, what, todo);
    } else if left > 0 {
        let todo = "nothing where a relay runs, or a program that has opened onecommit: it settles them within \
                    seconds. Otherwise start one, or `onecommit transaction resolve ID`";
        findings.warning(PLACE, what, todo);
    } else {
        findings.ok(PLACE, what);
    }
    let slow = survey
        .branches
        .iter()
        .filter(|(branch, state)| *state == CoordinatorState::Alive && branch.age >= LONG);
    for (branch, _) in slow {
        let (id, place, seconds) = (branch.name.transaction, &branch.name.participant, branch.age.as_secs());
        let what = format!("{id} has been prepared in {place} for {seconds} s, and its coordinator lives");
        findings.warning(
            PLACE,
            what,
            "its program's log says what keeps it; others settle it once that has ended",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::super::finding::{Case, assert_each_found};
    use super::*;
    use crate::coordinator::{SeenBranch, SeenCoordinator, Surveyed};
    use crate::error::{Error, ErrorKind};
    use crate::id::CoordinatorId;
    use crate::protocol::branch::BranchName;

    fn participant(plant: fn(&mut ParticipantFacts)) -> Findings {
        let mut facts = ParticipantFacts {
            prepared: (3, 200),
            connections_max: 100,
            role: "app".to_string(),
            ..ParticipantFacts::default()
        };
        plant(&mut facts);
        let mut findings = Findings::default();
        judge_participant(&mut findings, "orders", &facts);
        findings
    }

    #[test]
    fn what_a_participant_lacks_is_found() {
        let synchronous = |facts: &mut ParticipantFacts| {
            facts.standbys = 1;
            facts.synchronous_standbys = "s1".to_string();
        };
        let cases: [Case<ParticipantFacts>; 7] = [
            (|facts| facts.prepared = (0, 0), Severity::Problem, "max_prepared_transactions = 200"),
            (|facts| facts.prepared = (160, 200), Severity::Warning, "160 transactions are prepared"),
            (|facts| facts.prepared = (0, 99), Severity::Warning, "max_connections (100)"),
            (|facts| facts.missing_rights.push("UPDATE on x".to_string()), Severity::Problem, "UPDATE on x"),
            (|facts| facts.standbys = 1, Severity::Warning, "none of them synchronous"),
            (|facts| facts.synchronous_standbys = "s1".to_string(), Severity::Warning, "every commit waits"),
            (synchronous, Severity::Ok, "s1"),
        ];
        assert_each_found(cases, participant);
    }

    fn add(survey: &mut Survey, state: CoordinatorState, age_s: u64) {
        let coordinator = SeenCoordinator { state, ..seen() };
        let name = format!("oc1:shop:{}:{}:1:orders", crate::id::Incarnation::random(), coordinator.id);
        let name = BranchName::parse(&name).expect("a name");
        let branch = SeenBranch { name, owner: "app".to_string(), age: Duration::from_secs(age_s) };
        survey.coordinators.push(Surveyed { coordinator, unsettled: Vec::new() });
        survey.branches.push((branch, state));
    }

    fn seen() -> SeenCoordinator {
        let (id, host) = (CoordinatorId::random(), "host".to_string());
        SeenCoordinator { id, host, pid: 1, state: CoordinatorState::Alive }
    }

    fn surveyed(plant: fn(&mut Survey)) -> Findings {
        let mut survey = Survey::default();
        plant(&mut survey);
        let mut findings = Findings::default();
        judge_survey(&mut findings, &survey);
        findings
    }

    #[test]
    fn what_waits_to_be_settled_is_found() {
        let cases: [Case<Survey>; 7] = [
            (|survey| add(survey, CoordinatorState::Dead, 5), Severity::Warning, "1 dead and not recovered"),
            (|survey| add(survey, CoordinatorState::Dead, 61), Severity::Problem, "the oldest for 61 s"),
            (|survey| add(survey, CoordinatorState::Recovering, 61), Severity::Problem, "1 being recovered"),
            (|survey| add(survey, CoordinatorState::Orphan, 5), Severity::Warning, "transaction resolve"),
            (|survey| add(survey, CoordinatorState::Alive, 61), Severity::Warning, "its coordinator lives"),
            (|survey| add(survey, CoordinatorState::Alive, 5), Severity::Ok, "1 alive"),
            (
                |survey| survey.refusals.push(Error::new(ErrorKind::Refused, "settle", "lost")),
                Severity::Problem,
                "settle: lost",
            ),
        ];
        assert_each_found(cases, surveyed);
    }
}
