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


ADAPTING = """
import gc
from omium.server.memory import tune
tune()
first = gc.get_threshold()[0]
class Circle:
    def __init__(self):
        self.me = self
def fill(how, number):
    kept = [how() for _ in range(number)]
    return gc.get_threshold()[0]
more = fill(list, 3 * first)  # all in use: it looks less often
assert more > first, more
assert fill(list, 5 * more) == more  # up to a bound
few = fill(lambda: Circle() and None, 2 * more)
assert few < first, few
print("ok")
"""


def test_the_collector_comes_less_often_as_long_as_it_finds_nothing() -> None:
    """Objects of a thousand runs under way are all in use; circles are not to pile up for that."""
    said = subprocess.run([sys.executable, "-c", ADAPTING], capture_output=True, text=True, check=True).stdout
    assert said == "ok\n"
