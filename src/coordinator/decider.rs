//! Sends decisions to the decision log, one batch at a time, and tells each transaction what came of
//! its own. Relies on [`Batches`] for what an answer means.
//!
//! Promises that a decision is told *yes* only when it is in the log, and *no* only when it can never
//! come to be there.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::registration::Registration;
use crate::protocol::batch::{Batches, Entry, Meaning};
use crate::protocol::decision::Decision;
use crate::protocol::retry::Backoff;
use crate::protocol::transaction::Decided;

/// What came of a decision, and the batch that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) decided: Decided,
    pub(super) batch: u64,
}

enum Command {
    Submit(Decision, oneshot::Sender<Verdict>),
    /// Answers whether it was never sent, and never will be.
    Withdraw(u64, oneshot::Sender<bool>),
    Delete(Vec<u64>),
}

/// Speaks to the task that decides. Dropping the last one ends it.
#[derive(Clone)]
pub(super) struct Decider {
    commands: mpsc::UnboundedSender<Command>,
}

impl Decider {
    /// Begins to decide for a registered coordinator. How much waits is bounded by the transactions in
    /// flight.
    pub(super) fn start(registration: Arc<Registration>, retry: Backoff) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let task = Task { registration, retry, batches: Batches::default(), waiting: BTreeMap::new() };
        tokio::spawn(task.run(received));
        Decider { commands }
    }

    /// Submits a decision. Where the answer never comes this coordinator has ended before it was sent.
    pub(super) fn submit(&self, decision: Decision) -> oneshot::Receiver<Verdict> {
        let (told, verdict) = oneshot::channel();
        let _ = self.commands.send(Command::Submit(decision, told));
        verdict
    }

    /// Takes a decision back, if it was not sent.
    pub(super) async fn withdraw(&self, number: u64) -> bool {
        let (told, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Withdraw(number, told));
        // Without a task nothing is sent any more; what it had sent is told otherwise.
        answer.await.unwrap_or(false)
    }

    /// These batches are not needed any more.
    pub(super) fn delete(&self, batches: Vec<u64>) {
        let _ = self.commands.send(Command::Delete(batches));
    }
}

struct Task {
    registration: Arc<Registration>,
    retry: Backoff,
    batches: Batches,
    /// In their order, so that a run can be repeated step by step.
    waiting: BTreeMap<u64, (Decision, oneshot::Sender<Verdict>)>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut failures = 0;
        loop {
            while let Ok(command) = commands.try_recv() {
                self.take(command);
            }
            let Some(request) = self.batches.to_send().cloned() else {
                match commands.recv().await {
                    Some(command) => self.take(command),
                    None => return,
                }
                continue;
            };
            let answer = self.registration.decide(&request).await;
            let is_over = self.registration.is_over();
            match self.batches.answered(answer) {
                Meaning::Again if is_over => {
                    // Another session could send it again; but who lost the session may be recovered by
                    // now, and the recoverer has the word.
                    let sent = request.entries.iter().map(|entry| entry.number).collect();
                    self.end(sent);
                }
                Meaning::Again => {
                    failures += 1;
                    tokio::time::sleep(self.retry.wait(failures, 0.5)).await;
                    continue;
                }
                Meaning::Decided(numbers) => self.decided(request.batch, numbers),
                Meaning::NotDecided(numbers) => self.tell(request.batch, numbers, Decided::No),
                Meaning::Unclear(numbers) => self.tell(request.batch, numbers, Decided::Unclear),
            }
            failures = 0;
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Submit(decision, told) => {
                let number = decision.number;
                let entry = Entry { number, bytes: decision.encode() };
                if !self.registration.is_over() && self.batches.submit(entry) {
                    self.waiting.insert(number, (decision, told));
                } else {
                    let _ = told.send(Verdict { decided: Decided::No, batch: 0 });
                }
            }
            Command::Withdraw(number, told) => {
                let is_withdrawn = self.batches.withdraw(number);
                if is_withdrawn {
                    self.waiting.remove(&number);
                }
                let _ = told.send(is_withdrawn);
            }
            Command::Delete(batches) => {
                batches.into_iter().for_each(|batch| self.batches.allow_delete(batch))
            }
        }
    }

    fn decided(&mut self, batch: u64, numbers: Vec<u64>) {
        let found = numbers.iter().filter_map(|number| self.waiting.get(number));
        let decisions: Vec<Decision> = found.map(|(decision, _)| decision.clone()).collect();
        // Before anybody commits a branch of it: what is committed is then always known here.
        if !decisions.is_empty() {
            self.registration.decided(batch, decisions);
        }
        self.tell(batch, numbers, Decided::Yes);
    }

    fn tell(&mut self, batch: u64, numbers: Vec<u64>, decided: Decided) {
        for number in numbers {
            if let Some((_, told)) = self.waiting.remove(&number) {
                let _ = told.send(Verdict { decided, batch });
            }
        }
        if decided != Decided::Yes {
            self.registration.end();
            self.tell_the_rest();
        }
    }

    /// The session is over, with a batch that may have gone through.
    fn end(&mut self, sent: Vec<u64>) {
        self.batches.end();
        self.tell(0, sent, Decided::Unclear);
    }

    /// What was never sent is none, and never will be.
    fn tell_the_rest(&mut self) {
        for (_, (_, told)) in std::mem::take(&mut self.waiting) {
            let _ = told.send(Verdict { decided: Decided::No, batch: 0 });
        }
    }
}
