"""The native half of this package; each submodule is one Rust file in src/python."""

__all__ = ["error", "group", "lock", "main", "message", "node", "read", "sqlite", "transaction"]

from . import error as error
from . import group as group
from . import lock as lock
from . import main as main
from . import message as message
from . import node as node
from . import read as read
from . import sqlite as sqlite
from . import transaction as transaction
