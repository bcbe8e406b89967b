"""Tests of the tree itself: floors, limits, licences."""
