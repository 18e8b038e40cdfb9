"""The gateway: a process of its own that takes the calls of models, and alone has the keys."""
