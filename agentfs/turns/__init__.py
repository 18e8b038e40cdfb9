"""Turns: the pieces of work that agents do, one after another, and how many there were of each."""
