"""The files of the example: a workflow within a program. `README.md` says how to play it."""
