"""Free TCP ports on 127.0.0.1 for servers that must come back on the same port after a restart.

Promises a port below the range from which the kernel picks ports for outgoing connections. From
inside that range, a client that retries against a stopped server can be given the server's port
for its own end, and the server can not come back. Promises also that no other process that asks
here is given it while this one lives: not before the server listens, nor while it is down.
"""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

LOWEST = 10240
RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_given: dict[int, socket.socket] = {}
_lock = threading.Lock()


def _outgoing_ports_start() -> int:
    try:
        start = int(RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError):
        return 32768
    return start if start > LOWEST + 1000 else 65536


def free_port() -> int:
    """A port nobody listens on now, never given twice."""
    with _lock:
        for _ in range(1000):
            port = random.randrange(LOWEST, _outgoing_ports_start())
            claim = socket.socket(socket.AF_UNIX)
            try:
                # An abstract name, which is free again when this process ends, however that is.
                claim.bind(f"\0onecommit test port {port}")
                with socket.socket() as candidate:
                    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    candidate.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
            _given[port] = claim
            return port
    raise RuntimeError("found no free TCP port on 127.0.0.1 in 1000 tries")
