"""Examples that are run."""
