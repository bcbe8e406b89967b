//! Whose fault it is that a transaction failed: what the delivery reports and the last error say.
//!
//! Kafka names the records that it finds invalid, and librdkafka reports the others of their batch as
//! innocent. For what is too large nobody is named: the whole batch is refused. Who is named by
//! nobody is found by sending fewer at a time.

use std::collections::BTreeMap;

use rdkafka::error::RDKafkaErrorCode as Code;

use super::failure::reason;
use super::native::Failure;
use crate::delivery::{Blame, Fault};

/// What is wrong with a message itself. The list is fixed: of everything else nobody can say that no
/// later try will succeed.
const MESSAGE: [Code; 5] = [
    Code::MessageSizeTooLarge,
    Code::InvalidMessageSize,
    Code::InvalidRecord,
    Code::InvalidTimestamp,
    Code::MessageBatchTooLarge,
];

/// What is wrong with a topic.
const TOPIC: [Code; 5] = [
    Code::UnknownTopic,
    Code::UnknownPartition,
    Code::UnknownTopicOrPartition,
    Code::TopicAuthorizationFailed,
    Code::InvalidTopic,
];

/// `failures` are the messages that were not taken, `code` the error of the transaction itself.
pub(super) fn blame(failures: &[Failure], code: Option<Code>) -> Blame {
    let mut batches: BTreeMap<(&str, i32), Vec<(Code, &Failure)>> = BTreeMap::new();
    for failure in failures {
        let batch = batches.entry((&failure.topic, failure.partition)).or_default();
        batch.push((Code::from(failure.code), failure));
    }
    let mut faults: Vec<Fault> = Vec::new();
    for ((topic, _), batch) in &batches {
        if let Some((code, _)) = batch.iter().find(|(code, _)| TOPIC.contains(code)) {
            faults.push(Fault::Topic { topic: (*topic).to_string(), reason: reason(*code) });
            continue;
        }
        let named = batch.len() == 1 || batch.iter().any(|(code, _)| *code == Code::InvalidDifferentRecord);
        if named {
            faults.extend(batch.iter().filter_map(|(code, failure)| message_fault(*code, failure)));
        }
    }
    faults.dedup();
    if !faults.is_empty() {
        return Blame::These(faults);
    }
    let reported = batches.values().flatten().map(|(code, _)| *code);
    match reported.chain(code).find(|code| MESSAGE.contains(code) || TOPIC.contains(code)) {
        Some(code) => Blame::Somebody { of_topic: TOPIC.contains(&code), reason: reason(code) },
        None => Blame::Nobody,
    }
}

fn message_fault(code: Code, failure: &Failure) -> Option<Fault> {
    let message_id = failure.message_id.filter(|_| MESSAGE.contains(&code))?;
    Some(Fault::Message { message_id, reason: reason(code) })
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaRespErr as Raw;

    use super::*;
    use crate::id::MessageId;

    fn failure(partition: i32, code: Raw) -> Failure {
        let message_id = Some(MessageId::random());
        Failure { code, topic: "t".to_string(), partition, message_id }
    }

    #[test]
    fn who_is_named_is_to_blame_and_the_others_of_the_batch_are_not() {
        let (bad, good) = (
            failure(0, Raw::RD_KAFKA_RESP_ERR_INVALID_RECORD),
            failure(0, Raw::RD_KAFKA_RESP_ERR__INVALID_DIFFERENT_RECORD),
        );
        let Blame::These(faults) = blame(&[good, bad.clone()], None) else { panic!("named") };
        let reason = "Broker failed to validate record".to_string();
        match &faults[..] {
            [Fault::Message { message_id, .. }] => assert_eq!(Some(*message_id), bad.message_id, "{reason}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_a_batch_that_was_refused_as_a_whole_nobody_is_named() {
        let large = || failure(0, Raw::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
        let whole = blame(&[large(), large()], None);
        assert!(matches!(whole, Blame::Somebody { of_topic: false, .. }), "{whole:?}");
        let alone = blame(&[large()], None);
        assert!(matches!(&alone, Blame::These(faults) if faults.len() == 1), "{alone:?}");
    }

    #[test]
    fn a_topic_is_named_by_its_reports_or_has_to_be_found() {
        let gone = failure(3, Raw::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
        match blame(&[gone], None) {
            Blame::These(faults) => {
                assert!(matches!(&faults[..], [Fault::Topic { topic, .. }] if topic == "t"))
            }
            other => panic!("{other:?}"),
        }
        let denied = blame(&[], Some(Code::TopicAuthorizationFailed));
        assert!(matches!(denied, Blame::Somebody { of_topic: true, .. }), "{denied:?}");
    }

    #[test]
    fn for_what_the_servers_do_no_message_is_to_blame() {
        let timed_out = failure(0, Raw::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT);
        assert_eq!(blame(&[timed_out], Some(Code::OperationTimedOut)), Blame::Nobody);
        assert_eq!(blame(&[], Some(Code::ClusterAuthorizationFailed)), Blame::Nobody);
        assert_eq!(blame(&[], None), Blame::Nobody);
    }
}
