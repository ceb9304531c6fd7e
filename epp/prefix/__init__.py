"""Who holds how much of a prompt: three strategies that answer the same question, and the chain that asks them. Pure: no clock, no I/O."""
