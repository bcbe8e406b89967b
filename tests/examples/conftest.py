"""The examples run on the same installations as the end-to-end tests."""

from tests.e2e.conftest import make_installation, servers

__all__ = ["make_installation", "servers"]
