"""FUSE: the tree of `agentfs.vfs` served through pyfuse3."""
