"""The pool: who the endpoints are, what they report and what we sent them, published as columns. Pure."""
