"""From candidates to a pick: profiles of filters, weighted scorers and a picker, each a plugin of a few lines."""
