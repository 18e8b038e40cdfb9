"""What work costs, and how much of it may be had: budgets, limits, groups, shares, accounts."""
