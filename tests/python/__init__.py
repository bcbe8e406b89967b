"""Tests of the Python package as it is installed, on real databases."""
