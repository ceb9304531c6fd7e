"""Clients that others have written against live servers of both transports, each server a process of its own."""
