"""What survives a restart: the SQLite store, its tables, the events, the documents of `/etc`."""
