"""Processes: the one room in which Omium starts, watches and ends processes of the operating system.

`supervisor.run_process` starts one and answers when nothing of it is left; `reconcile` cleans up after an owner that
died; `heartbeat` is for programs that want to say that they are alive. POSIX only.
"""
