"""A background worker that nobody knows of does not fail what was declared after it had started."""

from __future__ import annotations

from tests.cli.harness import Place, until
from tests.cli.test_erase import talking


def test_what_was_declared_since_is_executed_by_another_worker(project: Place) -> None:
    asking = project.omium("run", "asking", "--detach").out.split()[0]
    until(lambda: project.json("show", asking)["status"] == "waiting_approval")
    place = talking(project)
    told = place.omium("run", "told", "--input", "name=ada", "--detach").out.split()[0]
    until(lambda: place.json("show", told)["status"] not in ("planning", "executing"))
    shown = place.json("show", told)
    assert (shown["status"], shown["output"]) == ("completed", {"text": "ada"}), shown["error"]
    place.end_workers()
