"""Shipped for tests, demos and plugin authors: a model-server stand-in with a real block cache, builders, contract suites."""
