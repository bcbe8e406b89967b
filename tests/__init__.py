"""Tests: of the tree, of the packages, and against real servers."""
