"""Content-aware differential privacy: datasets that may be published, with the guarantee made honest."""
