"""Bijections, one idea each: what a network is built of."""
