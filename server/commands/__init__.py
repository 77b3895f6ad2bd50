"""The commands, a module for each group of verbs. Each is thin: it parses, asks the core, and prints."""
