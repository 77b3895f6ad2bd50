"""Agents whose framework runs in a process with an environment of its own: the host's side, and `client` for theirs."""
