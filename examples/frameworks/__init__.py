"""The files of the example: one agent on each framework. `README.md` says how to play it."""
