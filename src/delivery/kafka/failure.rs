//! What an error of librdkafka means to the caller.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaRespErr;

use crate::error::{Error, ErrorKind};

/// An error of a transactional call.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) operation: &'static str,
    pub(super) code: RDKafkaRespErr,
    pub(super) text: String,
}

impl Outcome {
    /// As our error.
    pub(super) fn into_error(self) -> Error {
        let code = RDKafkaErrorCode::from(self.code);
        let what = what_to_do(code).map_or(self.text, str::to_string);
        Error::new(meaning(code), self.operation, what).with("kafka", code.to_string())
    }

    /// As the error of a call that may have taken effect: whatever it says, what is committed has
    /// to be read again. That somebody else has taken over is known all the same.
    pub(super) fn into_unclear(self) -> Error {
        let error = self.into_error();
        match error.kind() {
            ErrorKind::Fenced => error,
            _ => {
                Error::new(ErrorKind::Unclear, error.operation(), "the outcome is not known").caused_by(error)
            }
        }
    }
}

/// Turns a code of librdkafka into our error.
pub(super) fn from_code(operation: &'static str, code: impl Into<RDKafkaErrorCode>, what: &str) -> Error {
    let code = code.into();
    Error::new(meaning(code), operation, what_to_do(code).unwrap_or(what)).with("kafka", code.to_string())
}

/// Turns an error of the safe wrapper into ours.
pub(super) fn from_kafka(operation: &'static str, error: KafkaError) -> Error {
    // The value of a property stays out: it may be a password.
    if let KafkaError::ClientConfig(_, why, name, _) = error {
        return Error::new(ErrorKind::Configuration, operation, format!("[kafka] {name}: {why}"));
    }
    if let KafkaError::ClientCreation(why) = error {
        let what = "librdkafka can't make a client with the properties under [kafka]";
        return Error::new(ErrorKind::Configuration, operation, what).caused_by(why);
    }
    let code = error.rdkafka_error_code();
    let kind = code.map_or(ErrorKind::Configuration, meaning);
    let what = code.and_then(what_to_do).unwrap_or("Kafka reported an error");
    Error::new(kind, operation, what).caused_by(error)
}

/// What a code says of a topic or a message, and what to do where that is known.
pub(super) fn reason(code: RDKafkaErrorCode) -> String {
    what_to_do(code).map_or_else(|| code.to_string(), str::to_string)
}

/// What is to be done about a code, where that is known: give a right, raise a limit.
fn what_to_do(code: RDKafkaErrorCode) -> Option<&'static str> {
    use RDKafkaErrorCode as Code;
    Some(match code {
        Code::TopicAuthorizationFailed => {
            "Kafka does not let this user do that with the topic: a relay needs Write on the topics of messages, \
             and Read and Write on those that begin with kafka_prefix"
        }
        Code::TransactionalIdAuthorizationFailed => {
            "Kafka does not let this user use the transactional.id: give it Write on all that begin with \
             kafka_prefix"
        }
        Code::GroupAuthorizationFailed => {
            "Kafka does not let this user use the consumer group: give it Read on the group"
        }
        Code::ClusterAuthorizationFailed => {
            "Kafka does not let this user do that in the cluster: `onecommit init` needs Create on the topics that \
             it makes"
        }
        Code::InvalidTransactionTimeout => {
            "the broker's transaction.max.timeout.ms is below the 10000 ms that a relay's transactions may take: \
             raise it"
        }
        _ => return None,
    })
}

/// Whether librdkafka reports this while it connects again by itself.
pub(super) fn is_passing(error: &KafkaError) -> bool {
    let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
    !fatal && error.rdkafka_error_code().map(meaning) == Some(ErrorKind::Unreachable)
}

/// Whether it is about the consumer group that librdkafka wants to know also of whoever reads without one.
pub(super) fn is_about_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

/// The error of a topic that this user may not even look at; for others it seems not to be there.
pub(super) fn hidden(operation: &'static str, metadata: &Metadata, topic: &str) -> Option<Error> {
    let found = metadata.topics().iter().find(|found| found.name() == topic)?;
    let code = found.error().map(RDKafkaErrorCode::from)?;
    what_to_do(code).map(|what| from_code(operation, code, what).with("topic", topic))
}

fn meaning(code: RDKafkaErrorCode) -> ErrorKind {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => ErrorKind::Fenced,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::InvalidTransactionTimeout
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition => ErrorKind::Configuration,
        Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidTopic => ErrorKind::Invalid,
        Code::AllBrokersDown
        | Code::BrokerTransportFailure
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::MessageTimedOut
        | Code::TimedOutQueue
        | Code::QueueFull
        | Code::Resolve
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::NotCoordinator
        | Code::ConcurrentTransactions
        | Code::WaitingForCoordinator => ErrorKind::Unreachable,
        _ => ErrorKind::Failed,
    }
}
