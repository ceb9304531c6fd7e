"""Transports, each over real sockets with a real client."""
