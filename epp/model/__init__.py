"""The nouns every layer shares: endpoint, request, snapshot, match, decision. Frozen, slotted, without behaviour of their own."""
