//! What an error of librdkafka means to the caller.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
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
        Error::new(meaning(code), self.operation, self.text).with("kafka", code.to_string())
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
    Error::new(meaning(code), operation, what).with("kafka", code.to_string())
}

/// Turns an error of the safe wrapper into ours.
pub(super) fn from_kafka(operation: &'static str, error: KafkaError) -> Error {
    let kind = error.rdkafka_error_code().map_or(ErrorKind::Configuration, meaning);
    Error::new(kind, operation, "Kafka reported an error").caused_by(error)
}

/// Whether librdkafka reports this while it connects again by itself.
pub(super) fn is_passing(error: &KafkaError) -> bool {
    let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
    !fatal && error.rdkafka_error_code().map(meaning) == Some(ErrorKind::Unreachable)
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
