"""End-to-end tests: the real command line, real servers, and a checker that trusts neither."""
