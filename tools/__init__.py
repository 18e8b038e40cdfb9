"""The command line, and the daemon that puts kernel, providers and mount together."""
