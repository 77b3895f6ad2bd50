"""Whether a project is still the one that was loaded, as its file goes through what editors do to it."""

from __future__ import annotations

from pathlib import Path

from omium.server.config import load_config
from omium.server.declared.hot_project import ProjectStands

FILE = "project: demo\ndatabase: db/omium.db\n"


def test_it_stands_until_another_one_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "omium.yaml"
    file.write_text(FILE)
    stands = ProjectStands(load_config(file, {"HOME": str(tmp_path)}))
    assert stands()
    file.write_text("project: [")  # half written
    assert stands()
    file.unlink()
    assert stands()
    file.write_text(FILE + "budgets: {month: {period: month, usd: 5}}\n")
    assert not stands()
    file.write_text(FILE)
    assert stands()
