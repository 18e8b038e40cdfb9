"""Projects, the seeds that grow in them, and groups of agents."""
