"""Prefix producers: the plugins that make a strategy, one a module."""
