"""Tasks that are matched to workers, the workers, and who judges and orders them."""
