"""How useful released records are, and what they keep of their own: `make bench-utility`."""
