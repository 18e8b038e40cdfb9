"""What does the steps of runs: programs, workers, agents, models, tools, people."""
