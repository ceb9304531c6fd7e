"""Unit tests of epp.standalone."""
