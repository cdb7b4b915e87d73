"""One picture under several removals."""
