"""The models that agents may use, where they come from, and the keys for that."""
