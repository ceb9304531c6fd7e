"""Pickers: one a module."""
