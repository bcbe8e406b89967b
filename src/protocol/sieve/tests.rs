//! The sieve, message by message.

use super::*;
use crate::message::Message;

fn stored(id: i64, topic: &str, key: Option<&[u8]>) -> StoredMessage {
    let key = key.map(<[u8]>::to_vec);
    let message = Message::from_parts(topic, key, None, Vec::new(), None).unwrap();
    StoredMessage { id, message_id: MessageId::random(), transaction: 1, created_at_ms: 0, message }
}

fn waits(sieve: &Sieve, message: &StoredMessage) -> bool {
    matches!(sieve.fate(message), Fate::SetAside(Aside { reason: None, .. }))
}

/// Records what the sieve sets aside of `messages`, as the outbox would; returns the ids.
fn record(sieve: &mut Sieve, messages: &[StoredMessage]) -> Vec<i64> {
    let fates = messages.iter().map(|message| sieve.fate(message));
    let asides: Vec<Aside> = fates
        .filter_map(|fate| match fate {
            Fate::SetAside(aside) => Some(aside),
            _ => None,
        })
        .collect();
    let ids: Vec<i64> = asides.iter().map(|aside| aside.id).collect();
    sieve.recorded(&asides, &ids.iter().copied().collect());
    ids
}

#[test]
fn a_verdict_parks_its_key_at_once_and_no_other() {
    let mut sieve = Sieve::default();
    assert!(sieve.is_open());
    let bad = stored(1, "a", Some(b"k"));
    sieve.judge(&bad, "too large".to_string(), true);
    assert!(sieve.is_judged(1) && !sieve.is_open());
    assert!(matches!(sieve.fate(&bad), Fate::SetAside(Aside { reason: Some(_), parked_key: Some(_), .. })));
    assert!(waits(&sieve, &stored(2, "a", Some(b"k"))), "before the verdict is recorded");
    assert_eq!(record(&mut sieve, std::slice::from_ref(&bad)), [1]);
    assert!(waits(&sieve, &stored(2, "a", Some(b"k"))), "and after");
    assert_eq!(sieve.fate(&stored(3, "a", Some(b"other"))), Fate::Deliver);
    assert_eq!(sieve.fate(&stored(4, "b", Some(b"k"))), Fate::Deliver, "a key of another topic");
    assert_eq!(sieve.fate(&stored(5, "a", None)), Fate::Deliver);
}

#[test]
fn what_is_passed_parks_nothing() {
    let mut sieve = Sieve::default();
    let (bad, keyless) = (stored(1, "a", Some(b"k")), stored(2, "a", None));
    sieve.judge(&bad, "invalid".to_string(), false);
    sieve.judge(&keyless, "invalid".to_string(), true);
    assert_eq!(sieve.fate(&stored(3, "a", Some(b"k"))), Fate::Deliver);
    assert_eq!(sieve.fate(&stored(4, "a", None)), Fate::Deliver, "no key, nothing to park");
}

#[test]
fn a_topic_on_hold_keeps_all_its_messages_and_their_keys_when_it_is_released() {
    let mut sieve = Sieve::default();
    sieve.hold("gone");
    let waiting = [stored(1, "gone", Some(b"k")), stored(2, "gone", None), stored(3, "here", Some(b"k"))];
    assert_eq!(record(&mut sieve, &waiting), [1, 2]);
    sieve.release("gone");
    assert!(waits(&sieve, &stored(4, "gone", Some(b"k"))), "it would overtake the one before");
    assert_eq!(sieve.fate(&stored(5, "gone", Some(b"new"))), Fate::Deliver);
    sieve.cleared(Some(parked_key("gone", b"k")));
    assert_eq!(sieve.fate(&stored(4, "gone", Some(b"k"))), Fate::Deliver);
    assert_eq!(sieve.count(), 1, "the one without a key is still set aside");
}

#[test]
fn what_was_recorded_before_a_crash_is_passed_over_once_more() {
    let key = parked_key("a", b"k");
    let mut sieve = Sieve::new([7], [(key, 1)], [], [], 1);
    let again = stored(7, "a", Some(b"k"));
    assert_eq!(sieve.fate(&again), Fate::Recorded);
    sieve.cleared(Some(key));
    assert_eq!(sieve.fate(&again), Fate::Recorded, "delivered from its record before it is read here");
    sieve.passed([&again]);
    assert!(sieve.is_open(), "ids below the position don't come again");
}

#[test]
fn a_record_made_twice_counts_once() {
    let mut sieve = Sieve::default();
    let bad = stored(1, "a", Some(b"k"));
    sieve.judge(&bad, "invalid".to_string(), true);
    let aside = Aside::of(&bad, true, Some("invalid".to_string()));
    sieve.recorded(std::slice::from_ref(&aside), &HashSet::from([1]));
    sieve.judge(&bad, "still invalid".to_string(), true);
    sieve.recorded(&[aside], &HashSet::new());
    assert_eq!(sieve.count(), 1);
    sieve.cleared(Some(parked_key("a", b"k")));
    assert_eq!(sieve.count(), 0);
    assert_eq!(sieve.fate(&stored(2, "a", Some(b"k"))), Fate::Deliver);
}

#[test]
fn a_dead_topic_makes_dead_letters_that_park_nothing() {
    let mut sieve = Sieve::default();
    sieve.hold("dead");
    sieve.set_dead(["dead".to_string()]);
    assert!(sieve.held().is_empty());
    match sieve.fate(&stored(1, "dead", Some(b"k"))) {
        Fate::SetAside(aside) => assert_eq!((aside.parked_key, aside.reason.is_some()), (None, true)),
        other => panic!("{other:?}"),
    }
    sieve.set_dead([]);
    assert_eq!(sieve.fate(&stored(2, "dead", Some(b"k"))), Fate::Deliver);
}
