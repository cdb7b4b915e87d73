"""Pictures of what was found. matplotlib draws them; it is imported when the first one is drawn."""
