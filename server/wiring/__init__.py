"""How the rooms are put together for a process, one module each."""
