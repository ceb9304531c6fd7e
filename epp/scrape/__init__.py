"""What the model servers tell us: metrics pages, polled, and KV events, subscribed."""
