"""Saturation detectors, one a module."""
