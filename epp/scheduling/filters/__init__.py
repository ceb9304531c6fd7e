"""Filters: one a module."""
