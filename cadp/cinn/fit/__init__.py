"""The DP moments: queries, their plan, the sums and what they determine."""
