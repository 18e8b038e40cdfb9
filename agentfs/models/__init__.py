"""The kernel's side of the gateway: its doors, its process, and what it may ask."""
