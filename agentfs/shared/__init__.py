"""What agents share: queues, topics and artifacts."""
