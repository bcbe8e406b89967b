"""What people get wrong, and what they are told: one row a case, in `publishing`, `configuration`,
`stores` and `transactions`.

A small act stands in its row and is tried by `tests/python/test_bad_input.py`. What takes servers,
relays or a person's hand is tried by the tests that its row names; `tests/shape/test_bad_input.py`
holds the rows to the tree: each named test is there, and each text that is quoted is the product's.
"""

from .case import Case, Place
from .configuration import CONFIGURATION
from .publishing import PUBLISHING
from .stores import STORES
from .transactions import TRANSACTIONS

CASES = [*PUBLISHING, *CONFIGURATION, *STORES, *TRANSACTIONS]

__all__ = ["CASES", "Case", "Place"]
