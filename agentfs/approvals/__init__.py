"""Approvals: calls that wait until the operator, or an agent, has agreed."""
