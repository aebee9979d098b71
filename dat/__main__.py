"""`python -m dat`, and `accelerate launch -m dat`."""

from dat.cli import main

main()
