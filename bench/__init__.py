"""What AgentFS costs, beside what else one would use: `./run bench`."""
