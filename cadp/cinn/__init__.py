"""The conditional invertible neural network: records to latents and back, given the label, and its private training."""
