"""Planted bugs: each leaves out one rule that keeps messages safe, and one test has to notice.

`python -m tests.planted [NAME ...]` plants them one after the other in a copy of the tree.
"""
