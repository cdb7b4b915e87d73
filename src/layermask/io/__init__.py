"""Files, records and progress."""
