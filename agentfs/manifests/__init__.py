"""What a manifest says: text in, plan out. Nothing here knows a store or a process."""
