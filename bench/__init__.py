"""The cost of AgentFS, beside its alternatives: `./run bench`."""
