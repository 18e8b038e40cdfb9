"""Suites that others wrote, on our files beside those of Linux: `./run suites`."""
