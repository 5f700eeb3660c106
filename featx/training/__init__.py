"""From features or images to a run: a fitted head and its numbers."""
