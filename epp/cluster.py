"""All that exists only on Kubernetes, put together: who follows what of the API server, and whom it tells."""
