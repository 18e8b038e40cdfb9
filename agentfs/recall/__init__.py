"""Memory: notes that agents remember and recall, and the index of their files."""
