"""Tools: programs, Python functions and MCP servers that agents call through the tree."""
