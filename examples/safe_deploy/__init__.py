"""The files of the example: a deployment that can be taken back. `README.md` says how to play it."""
