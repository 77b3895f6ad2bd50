"""What `omium genie` asks of the client that it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omium.clients.remote import OmiumClient
from omium.server.commands import genie
from omium.server.commands.base import Invocation
from tests.cli.harness import place


@pytest.mark.parametrize(
    ("wait", "patience_s"), [(None, 60.0), (0.0, 10.0), (2.0, 10.0), (25.0, 25.0), (3_600.0, 60.0)]
)
def test_a_server_is_tried_for_no_longer_than_one_wants_to_wait(
    monkeypatch: pytest.MonkeyPatch, wait: float | None, patience_s: float
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(OmiumClient, "http", lambda url, **options: asked.update(options))
    said: list[str] = []
    invocation = cast(Invocation, SimpleNamespace(console=SimpleNamespace(note=said.append)))
    genie._client(invocation, "http://127.0.0.1:1/mcp", None, wait)
    asked["tell"]("it is away")
    assert (asked["patience_s"], said) == (patience_s, ["it is away"])


def test_what_looks_makes_no_database(tmp_path: Path) -> None:
    with place(tmp_path / "project") as project:
        database, typo = project.directory / "data" / "omium.db", tmp_path / "typo.db"
        for words, code, told in (
            (["status"], 0, f"there is no database at {database}"),
            (["status", "x"], 4, "Genie knows of no epic 'x'"),
            (["memory", "x"], 0, f"there is no database at {database}"),
            (["status", "--database", str(typo)], 4, f"there is no database at {typo}"),
        ):
            done = project.call("genie", *words)
            assert (done.exit_code, told in done.stderr) == (code, True), (words, done.output)
        assert not database.exists() and not typo.exists()
