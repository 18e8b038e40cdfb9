"""AgentFS: an operating system for AI agents whose whole interface is a file system."""

__version__ = "0.1.0"
