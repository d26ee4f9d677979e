"""What a release contains, how it is signed, and how a reader checks it without trusting the network it came over."""
