"""The HTTP port for people and Prometheus: metrics, health, decisions."""
