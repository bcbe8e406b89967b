//! Group commit: decisions that come while a batch is under way wait, and go together in the next
//! one. A lone transaction goes at once; there is no timer.
//!
//! What an answer means depends on what was asked before, so that is kept here: a batch's content is
//! frozen before it is first sent, and once an answer was lost, "the fence is another's" no longer
//! means "not decided". Of what stays unclear the recoverer has the word.

use std::collections::VecDeque;

/// The most bytes of one request. ZooKeeper takes 1 MiB (`jute.maxbuffer`).
pub const LIMIT_BYTES: usize = 256 * 1024;
/// What the name of a batch takes of them, to be created or deleted.
const NAME_BYTES: usize = 256;

/// One decision: the transaction's number, and the bytes that are kept of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The transaction's number.
    pub number: u64,
    /// What recovery has to know of it.
    pub bytes: Vec<u8>,
}

/// What is done as one, or not at all: check the fence, create a batch, delete others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The batch's number.
    pub batch: u64,
    /// What is in it. Nothing: no batch is created.
    pub entries: Vec<Entry>,
    /// The batches that are not needed any more.
    pub delete: Vec<u64>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// All of it was done.
    Done,
    /// The batch was there already; nothing was done.
    Exists,
    /// The fence was another's, or gone; nothing was done.
    Fenced,
    /// A batch that was to be deleted was not there; nothing was done.
    Missing(u64),
    /// None came, or one that says nothing.
    Lost,
}

/// What it means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// [`Batches::to_send`] has what to send again.
    Again,
    /// These transactions are committed.
    Decided(Vec<u64>),
    /// These are certainly not, and never will be.
    NotDecided(Vec<u64>),
    /// Of these the recoverer has the word.
    Unclear(Vec<u64>),
}

/// One coordinator's decisions on their way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batches {
    gathered: VecDeque<Entry>,
    deletable: VecDeque<u64>,
    under_way: Option<UnderWay>,
    next: u64,
    is_fenced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct UnderWay {
    request: Request,
    /// An answer was lost: it may have been done.
    is_doubtful: bool,
}

impl Batches {
    /// Gathers a decision for the next batch; false where this coordinator decides nothing more.
    pub fn submit(&mut self, entry: Entry) -> bool {
        if !self.is_fenced {
            self.gathered.push_back(entry);
        }
        !self.is_fenced
    }

    /// Takes a decision back; true where it was never sent, and so is none.
    pub fn withdraw(&mut self, number: u64) -> bool {
        let before = self.gathered.len();
        self.gathered.retain(|entry| entry.number != number);
        self.gathered.len() < before
    }

    /// This batch may go: every branch in it is applied, and newer marks say so.
    pub fn allow_delete(&mut self, batch: u64) {
        self.deletable.push_back(batch);
    }

    /// What is to be sent now: the request under way, or where there is none, one of what has gathered.
    pub fn to_send(&mut self) -> Option<&Request> {
        if self.under_way.is_none() && !self.is_fenced {
            let request = self.gather();
            let is_empty = request.entries.is_empty() && request.delete.is_empty();
            self.under_way = (!is_empty).then_some(UnderWay { request, is_doubtful: false });
        }
        self.under_way.as_ref().map(|under_way| &under_way.request)
    }

    /// Takes the answer to what [`Batches::to_send`] gave.
    pub fn answered(&mut self, answer: Answer) -> Meaning {
        let Some(under_way) = &mut self.under_way else { return Meaning::Decided(Vec::new()) };
        match answer {
            Answer::Lost => {
                under_way.is_doubtful = true;
                return Meaning::Again;
            }
            Answer::Missing(batch) => {
                under_way.request.delete.retain(|other| *other != batch);
                return Meaning::Again;
            }
            Answer::Done | Answer::Exists | Answer::Fenced => {}
        }
        let UnderWay { request, is_doubtful } = self.under_way.take().expect("just seen");
        let sent = request.entries.iter().map(|entry| entry.number).collect();
        match answer {
            Answer::Done => return Meaning::Decided(sent),
            // Its own, of which the answer was lost.
            Answer::Exists if is_doubtful => return Meaning::Decided(sent),
            _ => self.is_fenced = true,
        }
        let certainly_not = answer == Answer::Fenced && !is_doubtful;
        if certainly_not { Meaning::NotDecided(sent) } else { Meaning::Unclear(sent) }
    }

    /// Nothing is sent any more: not even again what was sent without a clear answer.
    pub fn end(&mut self) {
        self.is_fenced = true;
        self.under_way = None;
    }

    /// As many as fit; whatever is larger than the limit goes alone.
    fn gather(&mut self) -> Request {
        let mut left = LIMIT_BYTES;
        let mut fits = |bytes: usize, is_first: bool| {
            let fits = bytes <= left || is_first;
            left = left.saturating_sub(bytes);
            fits
        };
        let mut request = Request { batch: self.next, entries: Vec::new(), delete: Vec::new() };
        while let Some(entry) = self.gathered.front()
            && fits(NAME_BYTES + entry.bytes.len(), request.entries.is_empty())
        {
            request.entries.extend(self.gathered.pop_front());
        }
        while !self.deletable.is_empty()
            && fits(NAME_BYTES, request.entries.is_empty() && request.delete.is_empty())
        {
            request.delete.extend(self.deletable.pop_front());
        }
        self.next += u64::from(!request.entries.is_empty());
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn entry(number: u64) -> Entry {
        Entry { number, bytes: vec![0; 100] }
    }

    /// What a decision log does with requests: each as a whole.
    #[derive(Default)]
    struct Log {
        batches: BTreeMap<u64, Vec<u64>>,
        decided: BTreeSet<u64>,
        is_fenced: bool,
    }

    impl Log {
        fn ask(&mut self, request: &Request) -> Answer {
            if self.is_fenced {
                return Answer::Fenced;
            }
            if !request.entries.is_empty() && self.batches.contains_key(&request.batch) {
                return Answer::Exists;
            }
            if let Some(missing) = request.delete.iter().find(|batch| !self.batches.contains_key(batch)) {
                return Answer::Missing(*missing);
            }
            let numbers: Vec<u64> = request.entries.iter().map(|entry| entry.number).collect();
            self.decided.extend(&numbers);
            if !numbers.is_empty() {
                self.batches.insert(request.batch, numbers);
            }
            for batch in &request.delete {
                self.batches.remove(batch);
            }
            Answer::Done
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Submit,
        Withdraw,
        Delete(u8),
        Ask,
        LoseRequest,
        LoseAnswer,
        Fence,
        SomebodyDeletes,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => Just(Event::Submit),
            1 => Just(Event::Withdraw),
            2 => any::<u8>().prop_map(Event::Delete),
            6 => Just(Event::Ask),
            2 => Just(Event::LoseRequest),
            2 => Just(Event::LoseAnswer),
            1 => Just(Event::Fence),
            1 => Just(Event::SomebodyDeletes),
        ]
    }

    proptest! {
        #[test]
        fn what_is_told_is_true(events in prop::collection::vec(event(), 1..200)) {
            let (mut log, mut batches) = (Log::default(), Batches::default());
            let (mut submitted, mut told) = (0, BTreeMap::new());
            for event in events.into_iter().chain([Event::Ask; 200]) {
                let answer = match event {
                    Event::Submit => {
                        submitted += u64::from(batches.submit(entry(submitted)));
                        continue;
                    }
                    Event::Withdraw => {
                        if submitted > 0 && batches.withdraw(submitted - 1) {
                            told.insert(submitted - 1, Some(false));
                        }
                        continue;
                    }
                    Event::Delete(which) => {
                        let batch = log.batches.keys().nth(usize::from(which) % 8).copied();
                        batch.into_iter().for_each(|batch| batches.allow_delete(batch));
                        continue;
                    }
                    Event::Fence => {
                        log.is_fenced = true;
                        continue;
                    }
                    Event::SomebodyDeletes => {
                        log.batches.pop_first();
                        continue;
                    }
                    Event::Ask | Event::LoseRequest | Event::LoseAnswer => {
                        let Some(request) = batches.to_send() else { continue };
                        match event {
                            Event::LoseRequest => Answer::Lost,
                            Event::LoseAnswer => {
                                log.ask(request);
                                Answer::Lost
                            }
                            _ => log.ask(request),
                        }
                    }
                };
                let (numbers, outcome) = match batches.answered(answer) {
                    Meaning::Again => continue,
                    Meaning::Decided(numbers) => (numbers, Some(true)),
                    Meaning::NotDecided(numbers) => (numbers, Some(false)),
                    Meaning::Unclear(numbers) => (numbers, None),
                };
                for number in numbers {
                    prop_assert!(told.insert(number, outcome).is_none(), "{number} is told twice");
                }
            }
            for (number, outcome) in &told {
                let is_decided = log.decided.contains(number);
                prop_assert!(outcome.is_none_or(|outcome| outcome == is_decided), "{number}: {outcome:?}");
                prop_assert!(outcome.is_some() || log.is_fenced, "unclear without a fence: {number}");
            }
            let silent = |number: &u64| !told.contains_key(number);
            prop_assert!(log.is_fenced || !(0..submitted).any(|number| silent(&number)), "not told");
        }
    }

    #[test]
    fn what_comes_while_a_batch_is_under_way_goes_together_in_the_next() {
        let mut batches = Batches::default();
        assert!(batches.submit(entry(1)));
        assert_eq!(batches.to_send().unwrap().entries, [entry(1)], "a lone one goes at once");
        (2..5).for_each(|number| assert!(batches.submit(entry(number))));
        assert!(batches.withdraw(3), "it was never sent");
        assert!(!batches.withdraw(1), "it was");
        assert_eq!(batches.to_send().unwrap().entries, [entry(1)], "its content is frozen");
        assert_eq!(batches.answered(Answer::Lost), Meaning::Again);
        assert_eq!(batches.answered(Answer::Exists), Meaning::Decided(vec![1]));
        assert_eq!(batches.to_send().unwrap().entries, [entry(2), entry(4)]);
    }

    #[test]
    fn a_failed_check_is_clear_only_as_the_first_answer() {
        let ended = |lost: usize| {
            let mut batches = Batches::default();
            batches.submit(entry(1));
            batches.to_send();
            (0..lost).for_each(|_| assert_eq!(batches.answered(Answer::Lost), Meaning::Again));
            let meaning = batches.answered(Answer::Fenced);
            assert!(!batches.submit(entry(2)) && batches.to_send().is_none(), "nothing is decided any more");
            meaning
        };
        assert_eq!(ended(0), Meaning::NotDecided(vec![1]));
        assert_eq!(ended(1), Meaning::Unclear(vec![1]));
    }

    #[test]
    fn a_batch_that_somebody_else_made_is_not_taken_for_its_own() {
        let mut batches = Batches::default();
        batches.submit(entry(1));
        batches.to_send();
        assert_eq!(batches.answered(Answer::Exists), Meaning::Unclear(vec![1]));
    }

    #[test]
    fn a_request_stays_below_the_limit_names_to_be_deleted_included() {
        let mut batches = Batches::default();
        let large = |number| Entry { number, bytes: vec![0; LIMIT_BYTES / 3] };
        (0..4).for_each(|number| assert!(batches.submit(large(number))));
        (0..5000).for_each(|batch| batches.allow_delete(batch));
        let mut seen = Vec::new();
        while let Some(request) = batches.to_send() {
            let bytes: usize = request.entries.iter().map(|entry| entry.bytes.len()).sum();
            assert!(bytes + NAME_BYTES * (request.entries.len() + request.delete.len()) <= LIMIT_BYTES);
            seen.push((request.entries.len(), request.delete.len()));
            batches.answered(Answer::Done);
        }
        assert_eq!(seen.iter().map(|one| one.0).sum::<usize>(), 4);
        assert_eq!(seen.iter().map(|one| one.1).sum::<usize>(), 5000);
    }
}
