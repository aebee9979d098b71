"""What the method does to images and codes, measured."""
