"""AG2 behind the adapter protocol. Only `adapter` is imported from outside; it imports AG2 when an agent runs."""
