"""What survives: the store, its SQLite form and the numbered migrations."""
