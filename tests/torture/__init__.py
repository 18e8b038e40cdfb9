"""Torture: programs and the daemon are killed at random while messages flow; then everything that
happened is held against what must hold. `python -m tests.torture` runs it as long as wanted."""
