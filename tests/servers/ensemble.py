"""Several ZooKeeper servers that form one ensemble, so that their leader can be killed.

Promises that `start` returns when each of them follows or leads. Each can be stopped, killed and
started alone; with three, one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from .ports import free_port
from .started import Started
from .zookeeper import ZooKeeper

# In ticks of 500 ms: how long a member may take to find its leader, and to answer it.
LIMITS = {"initLimit": "20", "syncLimit": "10"}


class Member(ZooKeeper):
    """One of an ensemble. Made by `Ensemble`."""

    modes: tuple[str, ...] = ("leader", "follower")

    def __init__(self, number: int, all_members: Sequence[str], heap: str) -> None:
        fellows = {f"server.{n}": ports for n, ports in enumerate(all_members, start=1)}
        super().__init__({**LIMITS, **fellows}, heap)
        self.number = number
        self.title = f"ZooKeeper {number}"

    def leads(self) -> bool:
        return "Mode: leader" in self.four_letters("srvr")

    def _prepare(self) -> None:
        super()._prepare()
        data = self.folder / "data"
        data.mkdir()
        (data / "myid").write_text(str(self.number))


class Ensemble(Started):
    """The members; `address` lists them all."""

    def __init__(self, members: int = 3, heap: str = "128m") -> None:
        ports = [f"127.0.0.1:{free_port()}:{free_port()}" for _ in range(members)]
        self.members = [Member(number, ports, heap) for number in range(1, members + 1)]

    @property
    def address(self) -> str:
        return ",".join(member.address for member in self.members)

    def leader(self) -> Member:
        """The one that leads now; while they elect one, ValueError or OSError."""
        for member in self.members:
            if member.leads():
                return member
        raise ValueError("no member leads")

    def start(self) -> None:
        """Launches all, then waits for each: none leads before most of them run."""
        for member in self.members:
            member.launch()
        for member in self.members:
            member.wait_until_answering()

    def close(self) -> None:
        for member in self.members:
            member.close()
