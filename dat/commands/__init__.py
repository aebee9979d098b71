"""What the verbs of the command line do, one verb a file. They come before everything else: a recipe goes down from here."""
