"""Functions: where a node's Python function runs.

`host.FunctionPool`: in a worker process, where a time-out really stops it; `threads.call_in_thread`: in a thread, which
can only be abandoned; `threads.call_async`: an async function in this process.
"""
