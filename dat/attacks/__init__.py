"""Inner maximisation: pure functions of images and a loss of images."""
