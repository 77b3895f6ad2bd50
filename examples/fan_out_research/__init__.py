"""The files of the example: reading many sources at once. `README.md` says how to play it."""
