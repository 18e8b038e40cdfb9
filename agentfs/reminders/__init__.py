"""Reminders: messages that agents ask for at a time."""
