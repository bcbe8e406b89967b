//! The transaction machine against a world that may answer anything, or nothing, at every step.

use proptest::prelude::*;

use super::*;

/// What became of a branch, in its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Branch {
    Open,
    Prepared,
    Committed,
    RolledBack,
}

/// Databases and decision log, as they really are.
struct World {
    did: Vec<Did>,
    branches: Vec<Branch>,
    is_decided: bool,
    /// Whether anything may have decided.
    is_asked: bool,
}

impl World {
    /// Takes a step; `luck` says how it goes.
    fn take(&mut self, step: &Step, luck: u8) -> Event {
        match step {
            Step::Ask => Event::Asked(self.did.clone()),
            Step::Commit(writer) => self.commit(*writer, luck),
            Step::Prove(writer) => Event::Committed(match (self.branches[*writer], luck % 2) {
                (_, 0) => Committed::Unknown,
                (Branch::Committed, _) => Committed::Yes,
                _ => Committed::No,
            }),
            Step::Register(_) => Event::Registered(!luck.is_multiple_of(4)),
            Step::Prepare(writers) => {
                let vote =
                    |(place, writer): (usize, &usize)| self.prepare(*writer, luck.rotate_left(place as u32));
                Event::Voted(writers.iter().enumerate().map(vote).collect())
            }
            Step::Decide => self.decide(luck),
            Step::Apply => {
                let is_applied = !luck.is_multiple_of(3);
                let prepared = self.branches.iter_mut().filter(|branch| **branch == Branch::Prepared);
                prepared
                    .take(if is_applied { usize::MAX } else { 1 })
                    .for_each(|branch| *branch = Branch::Committed);
                Event::Applied(is_applied)
            }
            Step::Release { branches, commits } => {
                for branch in branches {
                    assert!(!commits || self.is_nothing_open_but(branches), "ended before the decision");
                    self.branches[*branch] = if *commits { Branch::Committed } else { Branch::RolledBack };
                }
                Event::Released
            }
            Step::Tell(_) => unreachable!("the end"),
        }
    }

    fn is_nothing_open_but(&self, readers: &[usize]) -> bool {
        let is_writer = |branch: &usize| matches!(self.did[*branch], Did::Wrote { .. });
        let writers = (0..self.branches.len()).filter(is_writer).filter(|branch| !readers.contains(branch));
        let mut states = writers.map(|writer| self.branches[writer]);
        states.all(|state| state == Branch::Committed || (state == Branch::Prepared && self.is_decided))
    }

    fn commit(&mut self, writer: usize, luck: u8) -> Event {
        self.is_asked = true;
        let (took_effect, is_answered) = (luck & 1 == 0, luck & 2 == 0);
        self.branches[writer] = if took_effect { Branch::Committed } else { Branch::RolledBack };
        Event::Committed(match (is_answered, took_effect) {
            (false, _) => Committed::Unknown,
            (true, true) => Committed::Yes,
            (true, false) => Committed::No,
        })
    }

    fn prepare(&mut self, writer: usize, luck: u8) -> Vote {
        let (took_effect, is_answered) = (luck & 3 != 0, luck & 12 != 0);
        self.branches[writer] = if took_effect { Branch::Prepared } else { Branch::RolledBack };
        match (is_answered, took_effect) {
            (false, _) => Vote::Unknown,
            (true, true) => Vote::Prepared { lsn: 1 },
            (true, false) => Vote::RolledBack,
        }
    }

    fn decide(&mut self, luck: u8) -> Event {
        let prepared = |branch: &Branch| matches!(branch, Branch::Prepared);
        let wrote = self.did.iter().zip(&self.branches).filter(|(did, _)| matches!(did, Did::Wrote { .. }));
        assert!(wrote.map(|(_, branch)| branch).all(prepared), "decided without every vote");
        self.is_asked = true;
        self.is_decided = luck & 1 == 0;
        Event::Decided(match (luck & 2 == 0, self.is_decided) {
            (false, _) => Decided::Unclear,
            (true, true) => Decided::Yes,
            (true, false) => Decided::No,
        })
    }

    /// What the settler, or a recoverer, makes of it in the end.
    fn settle(&mut self) {
        for branch in
            self.branches.iter_mut().filter(|branch| matches!(branch, Branch::Prepared | Branch::Open))
        {
            let commits = self.is_decided && *branch == Branch::Prepared;
            *branch = if commits { Branch::Committed } else { Branch::RolledBack };
        }
    }
}

fn did() -> impl Strategy<Value = Did> {
    prop_oneof![
        12 => (1u64..9, prop::bool::weighted(0.9)).prop_map(|(xid, is_finishable)| Did::Wrote { xid, is_finishable }),
        6 => Just(Did::Read),
        1 => Just(Did::EndedElsewhere),
        1 => Just(Did::Failed),
        1 => Just(Did::Lost),
    ]
}

proptest! {
    #[test]
    fn what_is_told_is_true_and_all_happens_or_nothing(
        did in prop::collection::vec(did(), 0..4), lucks in prop::collection::vec(any::<u8>(), 8),
        interrupted_at in 0usize..12, commits in prop::bool::weighted(0.9), holds_locks in any::<bool>()
    ) {
        let branches = vec![Branch::Open; did.len()];
        let mut world = World { did: did.clone(), branches, is_decided: false, is_asked: false };
        let mut transaction = Transaction::new(did.len());
        prop_assert_eq!(transaction.step(), None);
        if holds_locks {
            transaction.holds_locks();
        }
        transaction.on(if commits { Event::Commit } else { Event::RollBack });
        let mut told = None;
        for at in 0..12 {
            let step = transaction.step().unwrap();
            if let Step::Tell(ending) = step {
                told = Some(ending);
                break;
            }
            prop_assert!(!holds_locks || !matches!(step, Step::Commit(_)), "decided without asking the log");
            let event = world.take(&step, lucks[at % lucks.len()]);
            // Whoever is interrupted does not hear what came of it.
            transaction.on(if at == interrupted_at { Event::Interrupted } else { event });
        }
        let told = told.expect("it ends");
        world.settle();
        let wrote: Vec<Branch> = did.iter().zip(&world.branches)
            .filter(|(did, _)| matches!(did, Did::Wrote { .. })).map(|(_, branch)| *branch).collect();
        let all = |state: Branch| wrote.iter().all(|branch| *branch == state);
        prop_assert!(all(Branch::Committed) || all(Branch::RolledBack), "torn: {world:?}", world = world.branches);
        match told {
            Told::Committed { .. } => prop_assert!(all(Branch::Committed)),
            Told::RolledBack(_) => prop_assert!(all(Branch::RolledBack), "{told:?}"),
            Told::InDoubt(_) => prop_assert!(world.is_asked, "nothing could have decided"),
        }
    }
}

#[test]
fn what_did_not_happen_in_this_step_changes_nothing() {
    let mut transaction = Transaction::new(1);
    transaction.on(Event::Decided(Decided::Yes));
    assert_eq!(transaction.step(), None);
    transaction.on(Event::Commit);
    transaction.on(Event::Applied(true));
    assert_eq!(transaction.step(), Some(Step::Ask));
}

#[test]
fn a_role_that_recovery_cannot_take_stands_in_the_way_of_two_phases_only() {
    let end = |did: Vec<Did>| {
        let mut transaction = Transaction::new(did.len());
        transaction.on(Event::Commit);
        transaction.on(Event::Asked(did));
        (transaction.protocol(), transaction.step().unwrap())
    };
    let wrote = Did::Wrote { xid: 7, is_finishable: false };
    assert_eq!(end(vec![wrote, Did::Read]), (Protocol::OnePhase, Step::Commit(0)));
    assert_eq!(
        end(vec![wrote, wrote]),
        (Protocol::TwoPhase, Step::Release { branches: vec![0, 1], commits: false })
    );
    assert_eq!(end(vec![]), (Protocol::None, Step::Tell(Told::Committed { is_applied: true })));
}

#[test]
fn one_writer_with_a_lock_is_decided_where_the_lock_is() {
    let mut transaction = Transaction::new(2);
    transaction.holds_locks();
    transaction.on(Event::Commit);
    transaction.on(Event::Asked(vec![Did::Read, Did::Wrote { xid: 7, is_finishable: true }]));
    assert_eq!(transaction.step(), Some(Step::Register(vec![1])));
    assert_eq!(transaction.protocol(), Protocol::TwoPhase);
}

#[test]
fn who_stops_waiting_for_a_decision_that_was_sent_is_in_doubt() {
    let mut transaction = Transaction::new(2);
    transaction.on(Event::Commit);
    transaction.on(Event::Asked(vec![Did::Wrote { xid: 7, is_finishable: true }; 2]));
    transaction.on(Event::Registered(true));
    transaction.on(Event::Voted(vec![Vote::Prepared { lsn: 1 }; 2]));
    assert_eq!(transaction.step(), Some(Step::Decide));
    transaction.on(Event::Interrupted);
    assert_eq!(transaction.step(), Some(Step::Tell(Told::InDoubt(Why::Interrupted))));
}
