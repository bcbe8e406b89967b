"""Prints the committed messages of a topic, up to a number of them.

Run it beside `onecommit.toml` as `python examples/consumer.py account.changed 7`.
"""

from __future__ import annotations

import itertools
import json
import sys

import onecommit


def main(topic: str, count: int) -> None:
    """Reads from the beginning of the topic."""
    for message in itertools.islice(onecommit.read(topic, from_beginning=True), count):
        value = json.loads(message.value or b"null")
        print(message.partition, message.offset, message.key, value)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
