"""The Kubernetes API: asking it, and keeping up with what it knows. The only place that imports its client library."""
