//! A program that takes part: transactions that do this and that, on connections of its own, which are lost
//! like any other.

use std::sync::Arc;
use std::time::Duration;

use onecommit::coordinator::{Ack, Answer, Dialogue, Failure, Finished, Message, Next, Node, Options};
use onecommit::protocol::transaction::{Committed, Protocol, Vote};
use onecommit::{ErrorKind, Result};
use tokio::time::sleep;

use super::chance::Weather;
use super::participant::{participant, read};
use super::sim::{Meant, Process, Sim, State, To};
use super::sql::Statement;
use crate::world::{Connection, Instance, NAMES, Ran, Told, World, Wrong};

/// More than any transaction has.
const STEPS_MAX: usize = 100;

/// What one transaction is going to do.
struct Plan {
    /// The participants, in this order, and whether it writes there.
    branches: Vec<(usize, bool)>,
    messages: Option<(usize, u32)>,
    fails_in: Option<usize>,
    /// The caller ends this branch itself, which it must not.
    ends_inside: Option<usize>,
    rolls_back: bool,
    /// Its caller goes away behind so many steps.
    leaves_behind: Option<usize>,
    options: Options,
}

impl Plan {
    fn draw(sim: &Sim) -> Self {
        let mut inner = sim.lock();
        let Weather { statement_fails, caller_gone, one_database, .. } = inner.weather;
        let databases = inner.world.databases.len();
        let chance = &mut inner.chance;
        let mut places: Vec<usize> = (0..databases).collect();
        let mut branches = Vec::new();
        while !places.is_empty() && (branches.len() < 2 || chance.per_mille(300)) {
            let place = places.remove(chance.below(places.len()));
            branches.push((place, chance.per_mille(850)));
            if branches.len() == 1 && chance.per_mille(one_database) {
                break;
            }
        }
        let publishes = chance.per_mille(500);
        let home = branches[chance.below(branches.len())].0;
        let messages = publishes.then(|| (home, 1 + chance.below(2) as u32));
        let fails = chance.per_mille(statement_fails);
        let fails_in = fails.then(|| branches[chance.below(branches.len())].0);
        let ends = chance.per_mille(statement_fails / 2);
        let ends_inside = ends.then(|| branches[chance.below(branches.len())].0);
        let leaves = chance.per_mille(caller_gone);
        let options = Options {
            ack: if chance.per_mille(300) { Ack::Decided } else { Ack::Applied },
            deadline: chance.per_mille(300).then(|| chance.between_ms(30, 3000)),
            ..Options::default()
        };
        Plan {
            rolls_back: chance.per_mille(80),
            leaves_behind: leaves.then(|| chance.below(14)),
            branches,
            messages,
            fails_in,
            ends_inside,
            options,
        }
    }
}

/// A connection of the application's.
struct Wire {
    sim: Arc<Sim>,
    process: Process,
    place: usize,
    number: Connection,
    /// The server's life in which its transaction was begun.
    instance: Option<Instance>,
    is_lost: bool,
}

/// Runs so many transactions, one behind the other.
pub async fn work(sim: Arc<Sim>, process: Process, node: Arc<Node>, transactions: usize) {
    for _ in 0..transactions {
        let pause = sim.lock().chance.between_ms(0, 400);
        sleep(pause).await;
        sim.gate(process).await;
        let plan = Plan::draw(&sim);
        transact(&sim, process, &node, plan).await;
    }
}

async fn transact(sim: &Arc<Sim>, process: Process, node: &Node, plan: Plan) {
    let names: Vec<_> = plan.branches.iter().map(|(place, _)| participant(*place)).collect();
    let mut dialogue = node.begin(&names, plan.options.clone()).expect("they are configured");
    let meant = Meant {
        writes: plan.branches.iter().filter(|(_, writes)| *writes).map(|(place, _)| *place).collect(),
        messages: None,
    };
    let id = dialogue.id();
    sim.lock().meant.insert(id, meant);
    let wire = |(place, _): &(usize, bool)| {
        let (sim, number) = (Arc::clone(sim), sim.connect());
        Wire { sim, process, place: *place, number, instance: None, is_lost: false }
    };
    let mut wires: Vec<Wire> = plan.branches.iter().map(wire).collect();
    let told = drive(&mut dialogue, &mut wires, &plan).await;
    drop(dialogue);
    for wire in &wires {
        wire.hang_up();
    }
    // Who is dead has not heard it.
    if let (Some(told), State::Runs) = (told, sim.state(process)) {
        tell(sim, id, told);
    }
}

/// None where the caller went away.
async fn drive(dialogue: &mut Dialogue, wires: &mut [Wire], plan: &Plan) -> Option<Result<Option<Finished>>> {
    let mut steps = 0;
    loop {
        if plan.leaves_behind == Some(steps) {
            return None;
        }
        steps += 1;
        assert!(steps < STEPS_MAX, "a transaction does not end");
        match dialogue.next_step() {
            Next::Open => do_own_work(dialogue, wires, plan).await,
            Next::Work if plan.leaves_behind == Some(steps) => {
                // In the middle of it.
                tokio::select! {
                    biased;
                    () = sleep(Duration::from_millis(7)) => return None,
                    () = dialogue.work() => {}
                }
            }
            Next::Work => dialogue.work().await,
            Next::Ended(ended) => return Some(ended),
            Next::Send(messages) => {
                let answers = send_all(wires, messages);
                match tokio::time::timeout_at(dialogue.wait_until(), answers).await {
                    Ok(answers) => dialogue.answered(answers).await,
                    Err(_) => dialogue.interrupt().await,
                }
            }
        }
    }
}

async fn do_own_work(dialogue: &mut Dialogue, wires: &mut [Wire], plan: &Plan) {
    for (wire, (place, writes)) in wires.iter_mut().zip(&plan.branches) {
        if *writes {
            wire.write(plan.fails_in == Some(*place)).await;
        }
        if plan.ends_inside == Some(*place) {
            wire.end_inside().await;
        }
    }
    if let Some((home, count)) = plan.messages {
        let (sim, id) = (Arc::clone(&wires[0].sim), dialogue.id());
        for number in 0..count {
            let key = format!("{id}/{number}");
            let message = onecommit::Message::new("paid", key, "it is").expect("a message");
            let published = dialogue.publish(message, Some(&participant(home)));
            sim.lock().messages.insert(published.expect("it has an outbox"), id);
        }
        let mut inner = sim.lock();
        if let Some(meant) = inner.meant.get_mut(&id) {
            meant.messages = Some((home, count));
            if !meant.writes.contains(&home) {
                meant.writes.push(home);
            }
        }
    }
    if plan.rolls_back { dialogue.roll_back() } else { dialogue.commit() }
}

/// All at the same time; the answers come in the messages' order.
async fn send_all(wires: &mut [Wire], messages: Vec<Message>) -> Vec<Answer> {
    let mut by_branch: Vec<Option<&mut Wire>> = wires.iter_mut().map(Some).collect();
    let sent = messages.into_iter().map(|message| {
        let wire = by_branch[message.branch].take().expect("one message a branch");
        wire.send(message)
    });
    futures_util::future::join_all(sent.collect::<Vec<_>>()).await
}

impl Wire {
    async fn send(&mut self, message: Message) -> Answer {
        let statement = Statement::read(&message.sql);
        let what = format!("{} c{} {statement:?}", NAMES[self.place], self.number);
        let statement_fails = self.sim.lock().weather.statement_fails;
        // As where a deferred check fails: on a failed transaction PREPARE is answered without an error.
        let fails = matches!(statement, Statement::Prepare(..)) && {
            let fails = self.sim.lock().chance.per_mille(statement_fails);
            if fails {
                self.sim.hit("prepare fails");
            }
            fails
        };
        let answer = self.ask(what, move |world, place, number| {
            if fails {
                world.databases[place].fail(number);
            }
            run(world, place, number, &statement)
        });
        let answer = answer.await;
        answer.unwrap_or_else(|| Err(lost()))
    }

    /// A statement of the application's own.
    async fn write(&mut self, fails: bool) {
        let what = format!("{} c{} writes, fails: {fails}", NAMES[self.place], self.number);
        self.ask(what, move |world, place, number| {
            if fails {
                world.databases[place].fail(number);
            }
            world.databases[place].work(number)
        })
        .await;
    }

    async fn end_inside(&mut self) {
        let what = format!("{} c{} is rolled back inside", NAMES[self.place], self.number);
        self.ask(what, |world, place, number| world.databases[place].roll_back(number)).await;
    }

    async fn ask<T: std::fmt::Debug + Send + 'static>(
        &mut self,
        what: String,
        effect: impl FnOnce(&mut World, usize, Connection) -> T + Send + 'static,
    ) -> Option<T> {
        if self.is_lost {
            self.sim.note(format!("p{} {what}: lost before", self.process));
            return None;
        }
        let (place, number, there) = (self.place, self.number, self.instance);
        let asked = self.sim.call(self.process, To::Database(place), what, move |world| {
            // A connection ends with its server, also behind a pooler while a transaction is open on it.
            let here = world.databases[place].instance();
            let is_open = there.is_none_or(|there| there == here);
            is_open.then(|| (here, effect(world, place, number)))
        });
        match asked.await.flatten() {
            Some((here, answer)) => {
                self.instance.get_or_insert(here);
                Some(answer)
            }
            None => {
                self.is_lost = true;
                None
            }
        }
    }

    /// The server learns of it some time later, and rolls back what is open.
    fn hang_up(&self) {
        let (sim, place, number) = (Arc::clone(&self.sim), self.place, self.number);
        let after = sim.lock().chance.between_ms(1, 5000);
        tokio::spawn(async move {
            sleep(after).await;
            sim.lock().world.databases[place].roll_back(number);
        });
    }
}

fn lost() -> Failure {
    Failure { code: None, source: "the connection is lost".into() }
}

fn run(world: &mut World, place: usize, number: Connection, statement: &Statement) -> Answer {
    let database = &mut world.databases[place];
    let text = |value: &str| Some(value.to_string());
    let failed = || Failure { code: text("25P02"), source: "a statement has failed".into() };
    Ok(match statement {
        Statement::Begin(id) => {
            let (identity, started) = (database.identity(), database.started());
            let is_new = text(if database.begin(number, *id) { "t" } else { "f" });
            let catalog = Some(format!("base/{}/1259", identity.database));
            vec![catalog, Some(started), text("f"), is_new, text(&id.to_string()), text("1000"), None]
        }
        Statement::Ask(messages, only_in) => {
            let open = database.asked(number).map(|(id, ..)| id);
            let is_staged = *messages > 0 && (only_in.is_none() || *only_in == open);
            let staged = is_staged.then(|| database.stage(number, *messages));
            match staged {
                Some(Ran::Failed) => return Err(failed()),
                // By itself a statement is a transaction of its own, which commits.
                Some(Ran::NoTransaction) => {
                    world.truth.wrong(Wrong::Messages, format!("staged outside of a transaction, c{number}"));
                }
                Some(Ran::Wrote(_)) | None => {}
            }
            let database = &world.databases[place];
            match database.asked(number) {
                None => vec![None, None, text("app")],
                Some((.., true)) => return Err(failed()),
                Some((id, xid, false)) => {
                    vec![Some(id.to_string()), xid.map(|xid| xid.to_string()), text("app")]
                }
            }
        }
        Statement::Prepare(name, xid) => {
            let status = match database.prepare(number, read(name), *xid) {
                Vote::Prepared { .. } => text("in progress"),
                Vote::RolledBack => text("aborted"),
                Vote::Unknown => None,
            };
            vec![Some(format!("0/{:X}", database.position())), status]
        }
        Statement::Commit(xid) => match world.commit(place, number, Some(*xid)) {
            Committed::Yes => vec![text("committed")],
            Committed::No => vec![text("aborted")],
            Committed::Unknown => vec![None],
        },
        Statement::CommitReader => {
            world.commit(place, number, None);
            Vec::new()
        }
        Statement::RollBack => {
            database.roll_back(number);
            Vec::new()
        }
    })
}

fn tell(sim: &Sim, id: onecommit::id::TransactionId, told: Result<Option<Finished>>) {
    sim.note(format!("told of {id}: {told:?}"));
    let mut inner = sim.lock();
    let writes = inner.meant.get(&id).map(|meant| meant.writes.clone()).unwrap_or_default();
    let (told, applied_in) = match told {
        Ok(Some(finished)) => {
            let is_written = !matches!(finished.protocol, Protocol::ReadOnly | Protocol::None);
            (Told::Committed, if finished.is_applied && is_written { writes } else { Vec::new() })
        }
        Err(error) if error.kind() == ErrorKind::InDoubt => (Told::InDoubt, Vec::new()),
        Ok(None) | Err(_) => (Told::RolledBack, Vec::new()),
    };
    inner.world.tell(id, told, &applied_in);
    *inner.hits.entry(format!("told {told:?}")).or_default() += 1;
}
