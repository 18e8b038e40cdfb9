"""Checkpoints of the whole system, and the way back to one."""
