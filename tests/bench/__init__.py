"""The benchmark: floors of this machine, Omium, and its peers, measured in one session."""
