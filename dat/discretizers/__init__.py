"""Images to visual words and back: networks, quantizers, public weights, and what is done with codes."""
