"""Questions that wait for an answer, and escalations."""
