"""Networks of discretizers: one public layout of weights a file."""
