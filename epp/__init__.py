"""An endpoint picker for LLM inference behind Envoy."""
