"""What was done, by whom, in records that nobody can change unseen."""
