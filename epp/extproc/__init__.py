"""One ext_proc stream: serialized messages in, serialized messages out. A sans-IO session and the pump around it."""
