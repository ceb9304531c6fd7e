"""Scorers: one a module."""
