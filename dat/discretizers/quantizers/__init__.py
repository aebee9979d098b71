"""Quantizers: how a latent vector becomes a code, one rule a file."""
