"""`epp demo`: the whole product on one machine, each strategy on the same traffic, and why requests went where they went."""
