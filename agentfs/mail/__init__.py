"""Messages between agents: mailboxes, routing, claiming, acknowledging."""
