"""Things and their values: processes and their definitions, names, principals, capabilities."""
