"""Free TCP ports on 127.0.0.1 for servers that must come back on the same port after a restart.

Promises a port below the range from which the kernel picks ports for outgoing connections. From
inside that range, a client that retries against a stopped server can be given the server's port
for its own end, and the server can not come back.
"""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

LOWEST = 10240
RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_given: set[int] = set()
_lock = threading.Lock()


def _outgoing_ports_start() -> int:
    try:
        start = int(RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError):
        return 32768
    return start if start > LOWEST + 1000 else 65536


def free_port() -> int:
    """A port nobody listens on now, never given twice by this process."""
    with _lock:
        for _ in range(1000):
            port = random.randrange(LOWEST, _outgoing_ports_start())
            if port in _given:
                continue
            with socket.socket() as candidate:
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    candidate.bind(("127.0.0.1", port))
                except OSError:
                    continue
            _given.add(port)
            return port
    raise RuntimeError("found no free TCP port on 127.0.0.1 in 1000 tries")
