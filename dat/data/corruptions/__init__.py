"""The corruptions of ImageNet-C as tensor code, on any device."""
