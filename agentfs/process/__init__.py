"""Processes: one agent at work each, as a record here and as a program of the machine."""
