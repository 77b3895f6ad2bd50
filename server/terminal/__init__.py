"""`omium top`: what waits, runs and fails, in a terminal, and the keys to act on it. Needs the extra `tui`.

board.py      What there is to show, read from the core; no widget.
words.py      The same as text that is harmless on a terminal, in colours that can be read on dark and on light.
tables.py     Tables that keep their place while their rows change.
dialogs.py    Questions to the person who sits there.
panes.py      The five panes.
run.py        One run, with its nodes.
app.py        What holds them together, and listens for changes.
"""
