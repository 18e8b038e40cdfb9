"""The ways to pass messages that are measured against each other, and the program that uses one."""
