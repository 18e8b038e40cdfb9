"""Runs of pipelines: what is to be done next, and the journal of what was done."""
