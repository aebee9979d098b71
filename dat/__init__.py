"""Discrete Adversarial Training: the adversary changes visual words, not pixels."""
