"""All planted bugs."""

from __future__ import annotations

from . import (
    in_coordinator,
    in_delivery,
    in_locks,
    in_model,
    in_outbox,
    in_participant,
    in_protocol,
    in_relay,
    in_set_aside,
)
from .bug import Bug

BUGS: list[Bug] = [
    *in_protocol.BUGS,
    *in_outbox.BUGS,
    *in_set_aside.BUGS,
    *in_participant.BUGS,
    *in_coordinator.BUGS,
    *in_locks.BUGS,
    *in_model.BUGS,
    *in_delivery.BUGS,
    *in_relay.BUGS,
]
