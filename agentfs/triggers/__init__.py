"""What starts runs: schedules, entities, systems, topics."""
