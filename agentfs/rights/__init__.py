"""What a caller may do: roles, access rules, the policy, and the gate of all system calls."""
