"""The package that docs/plugins.md shows, installed: everything in it is found and works."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import SystemClock
from omium.server.config import load_config
from omium.server.notify.notifiers import notifier_of
from omium.server.plugins import GROUPS, survey
from omium.storage.open import open_store
from tests.docs.snippets import snippets
from tests.house.tree import ROOT
from tests.packages import install, on_path

PAGE = ROOT / "docs" / "plugins.md"


@pytest.fixture
def package(tmp_path: Path) -> Iterator[str]:
    """Its name."""
    (toml,) = (tomllib.loads(one.text) for one in snippets(PAGE, "toml"))
    modules = {str(one.name).removesuffix(".py"): one.text for one in snippets(PAGE, "python")}
    site = tmp_path / "site-packages"
    install(site, "acme_omium", toml["project"]["entry-points"], **modules)
    with on_path(site):
        yield "acme_omium"


@pytest.mark.anyio
async def test_the_package_of_the_page(package: str, tmp_path: Path) -> None:
    offered = [one for one in survey() if one.package == package]
    assert {(one.group, one.name, one.problem) for one in offered} == {
        ("omium.functions", "shout", ""),
        ("omium.agents", "crier", ""),
        ("omium.storage", "acmedb", ""),
        ("omium.notifiers", "pigeon", ""),
    }
    (tmp_path / "omium.yaml").write_text(
        "project: p\nnotify:\n- {name: roof, kind: pigeon, options: {loft: west}, events: [run.failed]}\n"
    )
    config = load_config(tmp_path, {})
    assert config.project.agents.names() == ["crier"] and set(config.project.functions) == {"shout"}
    store = await open_store(f"acmedb://{tmp_path}/omium.db")
    await store.close()
    (roof,) = config.notify
    pigeon = notifier_of(roof, SystemClock())
    for number in range(100):
        await pigeon.send(f"ntc_{number}", {"type": "run.failed", "data": {}})
    with pytest.raises(OmiumError):
        await pigeon.send("ntc_100", {"type": "run.failed", "data": {}})


def test_the_table_has_every_group() -> None:
    assert all(f"| `{group}` |" in PAGE.read_text() for group in GROUPS)
