"""What survives: the SQLite store, its migrations, the events, the documents of `/etc`."""
