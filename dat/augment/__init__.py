"""Augmentations of whole batches as pure functions: all their randomness comes in as numbers."""
