"""Where the list of endpoints comes from."""
