"""A small model on this machine, as a process of its own. Nobody imports it."""
