"""Programs of agents that `agentfs run` starts: processes of their own, of which nobody imports
anything. They stand on the standard library and `agentfs.agent`."""
