"""Published test sets: which there are, how their folders are laid out, and whether yours is as published."""
