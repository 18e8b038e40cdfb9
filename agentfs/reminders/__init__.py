"""What agents ask of the clock."""
