"""The toolbox: a process beside an agent's program, which checks the arguments of tools and speaks
with MCP servers. It runs as programs of that agent, and nobody imports it.

    python -I -m agentfs.toolbox                            serves the daemon, on descriptor 0
    python -I -m agentfs.toolbox.function FILE FUNCTION     calls a Python function once
"""
