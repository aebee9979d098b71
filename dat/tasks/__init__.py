"""What a model's loss is; nothing here knows of attacks."""
