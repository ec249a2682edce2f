"""Benchmarks, apart from the tests: each prints its figures and the machine they are of."""
