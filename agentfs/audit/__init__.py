"""The audit: records of who did what, which nobody can change unseen."""
