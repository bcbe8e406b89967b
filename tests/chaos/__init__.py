"""Every durable step of a transaction, met by every fault, on real servers: `make chaos`.

A bank moves money between two databases, tells Kafka, and locks. One of its workers is armed: at a
named step it dies, stands still, or does not hear the answer; or it is held there while a server
is harmed. Each fault proves that it hit, and behind each the bank is judged: both databases have
the same transfers, nothing is prepared, what was told is true, each message is in Kafka once, and
a lock can be had.
"""
