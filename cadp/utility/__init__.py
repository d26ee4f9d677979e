"""Is the release useful? A classifier trained on released records, the charged gate, and expectations on its bytes."""
