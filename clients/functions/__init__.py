"""Functions: where a node's Python function runs, and what it may import of us.

`host.FunctionPool`: in a worker process, where a time-out really stops it; `threads.call_in_thread`: in a thread, which
can only be abandoned; `threads.call_async`: an async function in this process. `checkpoint`: for functions that set
checkpoints themselves, see `checkpoints`.
"""

from omium.clients.functions.checkpoints import CheckpointError, checkpoint, standalone

__all__ = ["CheckpointError", "checkpoint", "standalone"]
