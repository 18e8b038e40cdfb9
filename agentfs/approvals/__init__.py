"""What waits until the operator allows it."""
