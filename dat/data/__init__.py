"""Images from disk, benchmark layouts and corruptions."""
