"""The cycle collector of our own processes."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
class Late:
    def __init__(self):
        self.me = self
    def __del__(self):
        sys.stdout.write("collected")
if sys.argv[1] == "tuned":
    from omium.server.memory import tune
    tune()
    import gc; assert gc.get_threshold()[0] > 10_000
Late()
"""


def test_nothing_is_collected_at_the_very_end() -> None:
    """It would take longer than all else that a server does when its client goes."""
    said = [
        subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout
        for how in ("plain", "tuned")
    ]
    assert said == ["collected", ""]
