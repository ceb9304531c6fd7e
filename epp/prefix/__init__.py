"""Who holds how much of a prompt: three strategies with one question, and the chain that asks them. No clock, no I/O."""
