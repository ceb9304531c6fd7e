"""An Envoy of our own beside the picker: its typed bootstrap and its launcher."""
