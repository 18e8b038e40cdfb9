"""The vocabulary of files: what providers build the tree from, and what the mount serves.

Nothing here knows FUSE, and nothing here knows what a process or a message is.
"""
