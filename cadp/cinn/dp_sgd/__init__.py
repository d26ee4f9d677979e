"""DP-SGD of the couplings: plan, Poisson samples, clipped integer gradients, steps."""
