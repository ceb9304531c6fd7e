"""Live configuration: where a new one comes from, whether it is taken, how it takes the old one's place, and the way back."""
