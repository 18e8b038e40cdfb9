"""The look of the tree: a module for each folder, mapping the kernel's objects to nodes.

Nothing here knows FUSE, and no rule of the kernel is made here: every change is a system call.
"""
