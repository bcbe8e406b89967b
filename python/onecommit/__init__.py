"""One commit for your databases and Kafka.

An application changes its database and publishes messages in one transaction, through its own
connection. A relay (`onecommit relay`) carries every committed message to Kafka exactly once, in
order per key, and none of those rolled back.

Importing this starts no thread and imports no database driver.
"""

from ._errors import (
    ConfigurationError,
    Error,
    FailedError,
    FencedError,
    InvalidError,
    RefusedError,
    UnclearError,
    UnreachableError,
)
from ._message import Encoder, Headers, Message, MessageId, ReceivedMessage
from ._outbox import AsyncOutbox, Outbox
from ._read import Messages, read

__all__ = [
    "AsyncOutbox",
    "ConfigurationError",
    "Encoder",
    "Error",
    "FailedError",
    "FencedError",
    "Headers",
    "InvalidError",
    "Message",
    "MessageId",
    "Messages",
    "Outbox",
    "ReceivedMessage",
    "RefusedError",
    "UnclearError",
    "UnreachableError",
    "read",
]
