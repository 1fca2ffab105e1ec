"""Take a fitted model elsewhere."""
