"""What things are: processes and their definitions, names, principals, capabilities."""
