"""Training that shows its progress, can be stopped at any moment, and continues to the bit."""
