"""What we tell the world about ourselves: exported series, logs, health, score sheets as text."""
