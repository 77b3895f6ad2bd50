"""What installed packages offer is found by its real metadata, used, and left out and named when it cannot be used."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import SystemClock
from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config
from omium.server.notify.notifiers import notifier_of
from omium.server.plugins import GROUPS, survey
from omium.storage.inspecting import inspect
from omium.storage.open import open_store
from tests.cli.harness import Place
from tests.packages import install, on_path

WHOLE = {
    "omium.functions": {"shout": "acme.offers:shout"},
    "omium.agents": {"helper": "acme.offers:helper"},
    "omium.agent_adapters": {"acme": "acme.offers:Adapter"},
    "omium.workflows": {"loud": "acme.offers:loud"},
    "omium.storage": {"acmedb": "acme.database"},
    "omium.notifiers": {"pigeon": "acme.offers:Pigeon"},
}
OFFERS = """
from pathlib import Path
from omium.clients.agents.spec import AgentDef, ModelSpec
from omium.orchestration.definition.build import workflow

sent = []

def shout(text: str) -> str:
    return text.upper()

helper = AgentDef("helper", framework="acme", description="helps")

class Adapter:
    framework = "acme"
    formats = frozenset({1})
    def version(self):
        return "1"
    def check(self, agent):
        return []

def loud():
    flow = workflow("loud")
    flow.function("a", use="shout", with_={"text": "hello"})
    return flow.build()

class Pigeon:
    def __init__(self, endpoint, clock):
        self.endpoint, self.clock = endpoint, clock
    async def send(self, notice_id, document):
        sent.append((notice_id, self.endpoint.options["loft"], document))
"""
DATABASE = """
from pathlib import Path
from omium.storage.sqlite.store import SqliteStore

async def open(url, *, clock, chain_key, durability, files_root):
    return await SqliteStore.open(
        Path("/" + url.partition("://")[2].lstrip("/")), clock=clock, chain_key=chain_key, durability=durability,
        files_root=files_root,
    )
"""
BROKEN = {group: {f"bad_{place}": "acme_broken.gone:thing"} for place, group in enumerate(GROUPS)}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Two packages: one that works, and one of which nothing can be imported."""
    place = tmp_path / "site-packages"
    install(place, "acme", WHOLE, offers=OFFERS, database=DATABASE)
    install(place, "acme_broken", BROKEN, gone="import no_such_module_anywhere\n")
    with on_path(place):
        yield place


@pytest.mark.anyio
async def test_all_six_groups_are_found_and_work(site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/omium.yaml").write_text(
        f"project: p\npath: [{site}]\ndatabase: acmedb:///{tmp_path}/there.db\n"
        "notify:\n- {name: loft, kind: pigeon, options: {loft: west}}\n"
    )
    with caplog.at_level(logging.WARNING, logger="omium.server.plugins"):
        config = load_config(tmp_path / "p", {"OMIUM_HOME": str(tmp_path / "home"), "OMIUM_DETACH": "false"})
    named = "\n".join(record.getMessage() for record in caplog.records)
    assert all(f"bad_{place}" in named for place in (1, 2, 3)) and "acme_broken" in named
    assert {"shout", "bad_0"} == set(config.project.functions)  # a function is imported where it is called
    async with open_omium(config) as core:
        caller = local_caller(config)
        run = await core.run_workflow(caller, "loud", {})
        done = await core.wait(caller, run.id, 25, detail=True)
        assert done.output == {"a": "HELLO"}
        assert [(one.name, one.versions[0].framework) for one in await core.list_agents(caller)] == [("helper", "acme")]
    assert (tmp_path / "there.db").is_file()
    assert (await inspect(config.database)).state == "unknown"
    (endpoint,) = config.notify
    await notifier_of(endpoint, SystemClock()).send("ntc_1", {"type": "x"})
    import acme.offers  # type: ignore[import-not-found]

    assert [(loft, document["type"]) for _, loft, document in acme.offers.sent] == [
        ("west", "run.completed"),
        ("west", "x"),
    ]


def test_each_plugin_is_surveyed(site: Path) -> None:
    found = {(one.group, one.name): one for one in survey() if one.package.startswith("acme")}
    assert {key for key, one in found.items() if not one.problem} == {
        (group, name) for group, points in WHOLE.items() for name in points
    }
    broken = [one for one in found.values() if one.problem]
    assert {one.group for one in broken} == set(GROUPS)
    assert all(one.package == "acme_broken" and "no_such_module_anywhere" in one.problem for one in broken)


@pytest.mark.anyio
async def test_storage_that_cannot_be_used(site: Path) -> None:
    for url, code, said in (
        ("bad_4://x", "unsupported", "acme_broken"),
        ("nosuch://x", "invalid_argument", "acmedb"),
    ):
        for act in (open_store, inspect):
            with pytest.raises(OmiumError) as refused:
                await act(url)
            assert refused.value.code == code and said in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.anyio
async def test_a_notifier_that_cannot_be_used_harms_its_own_endpoint_only(site: Path, tmp_path: Path) -> None:
    (tmp_path / "omium.yaml").write_text(
        "project: p\nnotify:\n- {name: bad, kind: bad_5}\n- {name: good, kind: pigeon, options: {loft: east}}\n"
    )
    bad, good = load_config(tmp_path, {}).notify
    assert good.types == bad.types
    with pytest.raises(OmiumError) as refused:
        await notifier_of(bad, SystemClock()).send("ntc_1", {})
    assert refused.value.code == "unsupported" and "acme_broken" in refused.value.message
    await notifier_of(good, SystemClock()).send("ntc_2", {})


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{name: a, kind: nobody}", "pigeon"),
        ("{name: a, kind: pigeon, url: 'https://x.example', url_env: U}", "exactly one"),
        ("{name: a, kind: pigeon, secret_env: S, secret_file: f}", "secret_env or secret_file"),
        ("{name: a, kind: pigeon, routing_key_env: S}", "routing_key"),
        ("{name: a, url: 'https://x.example', secret_env: S, options: {a: 1}}", "installed packages"),
    ],
)
def test_endpoints_that_cannot_be(site: Path, tmp_path: Path, entry: str, said: str) -> None:
    (tmp_path / "omium.yaml").write_text(f"project: p\nnotify:\n- {entry}\n")
    with pytest.raises(OmiumError) as refused:
        load_config(tmp_path, {})
    assert said in refused.value.message


def test_a_process_of_its_own_finds_them_and_doctor_names_the_broken_ones(site: Path, tmp_path: Path) -> None:
    place = Place.make(tmp_path / "project")
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    done = place.omium("doctor", "--json", env={"PYTHONPATH": path})
    found = {one["name"]: one for one in json.loads(done.out)}
    assert done.code == 0, done.out  # nothing else is harmed
    assert found["plugin pigeon"]["status"] == "ok"
    bad = found["plugin bad_5"]
    assert bad["status"] == "warning" and "acme_broken" in bad["detail"] and "no_such_module" in bad["detail"]
    assert bad["fix"].startswith("pip install") and found["project"]["status"] == "ok"
    assert (
        place.omium("run", "hello", "--input", "name=ada", env={"PYTHONPATH": path, "OMIUM_DETACH": "false"}).code == 0
    )
