"""The documents, followed word for word on real servers."""
