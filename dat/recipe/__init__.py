"""Recipes: what to train on what, how, and where to put it; read strictly, then opened once. Below, nobody holds one."""
