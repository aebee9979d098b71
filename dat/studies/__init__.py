"""What a recipe of one kind trains, measures and shows, one kind a file; `table.py` lists them."""
