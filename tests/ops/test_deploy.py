"""Bundles: what is in them, who is trusted, what a tampered one comes to; and the files for those who run them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from omium.clients.processes.liveness import HostProcesses
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ProjectId
from omium.orchestration.ports import SystemClock
from omium.server.deploying.files import rendered, write_files
from omium.server.deploying.keys import make_key, read_private, read_public
from omium.server.metrics import Metrics
from tests.cli.harness import Place
from tests.house.tree import ROOT


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "deploy.key"
    make_key(path)
    make_key(path.with_name("other.key"))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place.make(tmp_path / "project")
    (place.directory / "api-token.txt").write_text("canary")
    (place.directory / ".env").write_text("SECRET=canary")
    (place.directory / "data").mkdir()
    (place.directory / "data" / "omium.db").write_text("canary")
    return place


def bundled(place: Place, keys: Path, name: str = "a.omium", *more: str) -> Path:
    path = place.directory.parent / name
    done = place.call("deploy", "bundle", str(path), "--key", str(keys), *more)
    assert done.exit_code == 0, done.output
    return path


def trust(keys: Path, name: str = "deploy.key.pub") -> list[str]:
    return ["--trust", str(keys.with_name(name))]


def test_a_bundle_holds_the_project_and_no_secret(place: Place, keys: Path) -> None:
    path = bundled(place, keys)
    assert b"canary" not in b"".join(zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist())
    told = json.loads(place.call("deploy", "verify", str(path), *trust(keys), "--json").stdout)
    assert set(told["files"]) == {
        "omium.yaml", "steps.py", *(f"workflows/{name}.yaml" for name in ("hello", "asking", "failing", "patient")),
    }  # fmt: skip
    assert set(told["workflows"]) == {"hello", "asking", "failing", "patient"}
    again = bundled(place, keys, "b.omium")
    assert again.read_bytes() == path.read_bytes()  # the same project makes the same bundle


def test_it_is_installed_listed_and_gone_back_from(place: Place, keys: Path, tmp_path: Path) -> None:
    first = bundled(place, keys)
    target = tmp_path / "production"
    assert place.call("deploy", "list", str(target)).exit_code == 0
    done = place.call("deploy", "install", str(first), str(target), *trust(keys), "--json")
    assert done.exit_code == 0, done.output
    one = json.loads(done.stdout)
    with (place.directory / "workflows" / "hello.yaml").open("a") as file:
        file.write("deadline: 1h\n")
    second = bundled(place, keys, "b.omium")
    two = json.loads(place.call("deploy", "install", str(second), str(target), *trust(keys), "--json").stdout)
    listed = json.loads(place.call("deploy", "list", str(target), "--json").stdout)
    assert [(row["release"], row["current"]) for row in listed] == [(two["release"], True), (one["release"], False)]
    assert all(row["digest"].startswith(row["release"]) and row["omium"] for row in listed)
    place.call("deploy", "install", str(first), str(target), *trust(keys))
    assert (target / "current").readlink().name == one["release"]
    ran = Place(target / "current").omium("run", "hello", "--input", "name=ada", env={"OMIUM_DETACH": "false"})
    assert ran.code == 0, ran.out + ran.err
    logged = Place(target / "current").call("audit", "--all").stdout
    assert logged.count("deployment.installed") == 2  # the database lies in each release, as this project says


def rezipped(path: Path, change: Any, into: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members = change(members)
    with zipfile.ZipFile(into, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return into


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m | {"project/steps.py": m["project/steps.py"] + b"\nimport os\n"},
        lambda m: m | {"project/evil.py": b"import os"},
        lambda m: {name: data for name, data in m.items() if name != "project/steps.py"},
        lambda m: m | {"manifest.json": m["manifest.json"].replace(b"greetings", b"gratings!")},
        lambda m: {name: data for name, data in m.items() if name != "signature.json"},
        lambda m: m | {"signature.json": b"{}"},
        lambda m: m | {"../evil.py": b"import os"},
        lambda m: m | {"/etc/evil": b"import os"},
        lambda m: m | {"project/../../evil.py": b"import os"},
        lambda m: m | {"project/a\\b.py": b"import os"},
    ],
    ids=["changed", "added", "removed", "manifest", "unsigned", "signature", "above", "absolute", "dots", "backslash"],
)
def test_a_tampered_bundle_is_refused(place: Place, keys: Path, tmp_path: Path, change: Any) -> None:
    bad = rezipped(bundled(place, keys), change, tmp_path / "bad.omium")
    for arguments in (["verify", str(bad)], ["install", str(bad), str(tmp_path / "production")]):
        done = place.call("deploy", *arguments, *trust(keys))
        assert done.exit_code == 1 and "is refused" in done.stderr, done.output
    assert not (tmp_path / "production").exists()
    assert not list(tmp_path.glob("evil*"))


def test_only_trusted_keys_count(place: Place, keys: Path, tmp_path: Path) -> None:
    path = bundled(place, keys)
    assert place.call("deploy", "verify", str(path), *trust(keys, "other.key.pub")).exit_code == 1
    both = [*trust(keys, "other.key.pub"), *trust(keys)]
    assert place.call("deploy", "verify", str(path), *both).exit_code == 0
    (tmp_path / "none.omium").write_bytes(b"PK nothing")
    assert place.call("deploy", "verify", str(tmp_path / "none.omium"), *trust(keys)).exit_code == 1
    assert place.call("deploy", "verify", str(tmp_path / "absent"), *trust(keys)).exit_code == 4


def test_another_project_does_not_take_an_environment_over(place: Place, keys: Path, tmp_path: Path) -> None:
    target = tmp_path / "production"
    assert place.call("deploy", "install", str(bundled(place, keys)), str(target), *trust(keys)).exit_code == 0
    text = (place.directory / "omium.yaml").read_text()
    (place.directory / "omium.yaml").write_text(text.replace("project: greetings", "project: other"))
    done = place.call("deploy", "install", str(bundled(place, keys, "b.omium")), str(target), *trust(keys))
    assert done.exit_code == 5


def test_a_private_key_among_the_files_refuses_the_whole(place: Place, keys: Path) -> None:
    shutil.copy(keys, place.directory / "notes.txt")
    bundled(place, keys, "b.omium")  # nothing refers to it
    asked = ["deploy", "bundle", str(place.directory / "x.omium"), "--key", str(keys), "--include", "*.txt"]
    done = place.call(*asked)
    assert done.exit_code == 2 and "notes.txt:1 holds a private key" in done.stderr
    assert place.call(*asked, "--exclude", "notes.txt").exit_code == 0


@pytest.mark.parametrize(
    "secret", ["database: postgresql://omium:hunter22@db/omium", "env: {K: sk-ant-0123456789abcdefghij}"]
)
def test_what_looks_like_a_secret_refuses_the_whole(place: Place, keys: Path, secret: str) -> None:
    text = (place.directory / "omium.yaml").read_text().replace("database: data/omium.db", "")
    (place.directory / "omium.yaml").write_text(f"{text}\n{secret}\n")
    done = place.call("deploy", "bundle", str(place.directory / "x.omium"), "--key", str(keys))
    assert done.exit_code == 2 and "omium.yaml:" in done.stderr, done.output
    assert "hunter22" not in done.output and "0123456789" not in done.output
    assert not (place.directory / "x.omium").exists()


REFERRED = {
    "agents/clerk/agent.yaml": (
        "name: clerk\nprompt_file: reset_password.md\nmodel: {provider: scripted, script: talk.json}\n"
    ),
    "agents/clerk/reset_password.md": "You help people who lost their password.",
    "agents/clerk/talk.json": '{"turns": [{"text": "hello"}]}',
    "policies/main.yaml": "apiVersion: omium.dev/policy/v1\ndefault: deny\n",
    "tools/count.py": "import counting\n",
    "tools/counting.py": "TOKENS = 1\n",
    "lib/__init__.py": "",
    "lib/tokens.py": "def count(text: str) -> int:\n    from lib import words\n    return len(words.split(text))\n",
    "lib/words.py": "def split(text):\n    return text.split()\n",
    "start/readme.txt": "what a workspace begins with",
    "prompts/reviewer.md": "You review.",
}
STRAY = (
    *(
        "steps.py~",
        "steps.py.bak",
        ".steps.py.swp",
        "#steps.py#",
        "steps_old.py",
        "notes.md",
        "workflows/hello.yaml.orig",
    ),
    *("agents/clerk/.env", "agents/clerk/test_clerk.py", "agents/clerk/agent.yaml~", ".env", ".env.local", "prod.env"),
    *("lib/__pycache__/words.cpython-311.pyc", ".git/config", ".mypy_cache/x.json", "start/secrets.txt", "start/.env"),
    *("data.csv", "lib/unused.py", "server.key"),
)
MORE = """
policy: {path: policies/main.yaml}
functions:
  greet: {ref: "steps:greet", host: async}
  shout: {ref: "steps:shout", host: async}
  until_file: {ref: "steps:until_file", host: async, timeout: 60s}
  boom: {ref: "steps:boom", host: async}
  count: {ref: "lib.tokens:count"}
commands:
  count: {argv: ["{python}", "{project}/tools/count.py"]}
workspaces:
  fresh: {source: start}
coding:
  reviewer: {kind: claude, system_prompt: prompts/reviewer.md}
"""


def test_a_bundle_holds_what_the_project_refers_to_and_nothing_else(place: Place, keys: Path, tmp_path: Path) -> None:
    for name in (*REFERRED, *STRAY):
        path = place.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(REFERRED.get(name, "canary"))
    (place.directory / "omium.yaml").write_text(f"project: greetings\ndatabase: data/omium.db\n{MORE}")
    path = bundled(place, keys)
    told = json.loads(place.call("deploy", "verify", str(path), *trust(keys), "--json").stdout)
    flows = {f"workflows/{name}.yaml" for name in ("hello", "asking", "failing", "patient")}
    assert set(told["files"]) == {"omium.yaml", "steps.py", *flows, *REFERRED}
    with zipfile.ZipFile(path) as archive:
        assert b"canary" not in b"".join(archive.read(name) for name in archive.namelist())
    before = told["policy"]
    (place.directory / "policies/main.yaml").write_text("apiVersion: omium.dev/policy/v1\ndefault: allow\n")
    again = bundled(place, keys, "b.omium")
    assert json.loads(place.call("deploy", "verify", str(again), *trust(keys), "--json").stdout)["policy"] != before

    installed = place.call("deploy", "install", str(path), str(tmp_path / "production"), *trust(keys))
    assert installed.exit_code == 0, installed.output  # it loads where nothing else is

    done = place.call("deploy", "bundle", str(tmp_path / "c.omium"), "--key", str(keys), "--include", "*.csv", "--json")
    assert "data.csv" in json.loads(done.stdout)["files"]
    said = place.call("deploy", "bundle", str(tmp_path / "d.omium"), "--key", str(keys)).stderr
    assert "data.csv" in said and "--include" in said and "server.key" not in said and ".env" not in said


def test_a_secret_is_not_taken_along_by_asking_for_it(place: Place, keys: Path) -> None:
    for name in (".env", "prod.env", "a.pem", "my-token.txt"):
        (place.directory / name).write_text("canary")
    path = bundled(place, keys, "a.omium", "--include", "*", "--include", "*.env", "--include", "*token*")
    with zipfile.ZipFile(path) as archive:
        assert b"canary" not in b"".join(archive.read(name) for name in archive.namelist())


def test_keys_are_private_and_are_not_made_twice(keys: Path, tmp_path: Path) -> None:
    assert keys.stat().st_mode & 0o077 == 0
    with pytest.raises(OmiumError):
        make_key(keys)
    loose = tmp_path / "loose.key"
    shutil.copy(keys, loose)
    loose.chmod(0o644)
    for read, path in ((read_private, loose), (read_private, keys.with_name("deploy.key.pub")), (read_public, keys)):
        with pytest.raises(OmiumError):
            read(path)


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return rendered("shop", "/srv/shop", "0.1.0")


def test_files_are_written_once(place: Place, tmp_path: Path) -> None:
    done = place.call("deploy", "files", str(tmp_path / "ops"), "--home", "/srv/shop", "--json")
    assert done.exit_code == 0, done.output
    names = set(json.loads(done.stdout)["files"])
    assert {"Dockerfile", "compose.yaml", "omium.service", "grafana.json", "prometheus.yml", "alerts.yml"} <= names
    assert ("omium.mcpb" in names) != ("without an MCPB" in done.stderr)
    assert place.call("deploy", "files", str(tmp_path / "ops")).exit_code == 5
    assert "[[ " not in "".join(path.read_text() for path in (tmp_path / "ops").iterdir() if path.suffix != ".mcpb")
    with pytest.raises(OmiumError):
        write_files(tmp_path / "more", "shop", Path('/srv/a "b"'), "1")


def names_of_metrics() -> set[str]:
    registry: CollectorRegistry = Metrics(None, ProjectId("p"), SystemClock(), HostProcesses()).registry  # type: ignore[arg-type]
    found = set()
    for family in registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        found |= {family.name + suffix for suffix in suffixes}
    return found


@pytest.mark.parametrize("name", ["grafana.json", "alerts.yml"])
def test_dashboards_and_alerts_ask_for_metrics_that_there_are(texts: dict[str, str], name: str) -> None:
    asked = set(re.findall(r"\bomium_\w+", texts[name]))
    assert len(asked) > 5
    assert asked - names_of_metrics() == set()


def test_the_dashboard_loads(texts: dict[str, str]) -> None:
    board = json.loads(texts["grafana.json"])
    assert board["title"] == "Omium: shop" and board["uid"] == "omium" and board["schemaVersion"] >= 36
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 12
    for panel in board["panels"]:
        assert panel["targets"] and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_alerts_point_to_what_the_runbook_has(texts: dict[str, str]) -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text("utf-8")
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in runbook.splitlines()
        if line.startswith("#")
    }
    for group in yaml.safe_load(texts["alerts.yml"])["groups"]:
        for rule in group["rules"]:
            page, _, anchor = rule["annotations"]["runbook"].partition("#")
            assert page == "docs/runbook.md" and anchor in anchors, rule["alert"]


def test_the_container_is_not_root_and_says_how_it_is(texts: dict[str, str]) -> None:
    lines = [line for line in texts["Dockerfile"].replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    words = [line.split(maxsplit=1)[0] for line in lines]
    assert {"FROM", "USER", "HEALTHCHECK", "VOLUME", "CMD", "EXPOSE"} <= set(words)
    assert "USER omium" in lines and words.index("USER") < words.index("CMD")
    assert "omium-mcp[postgres,otel]==0.1.0" in texts["Dockerfile"]


def test_the_compose_file_has_postgres_a_server_and_workers(texts: dict[str, str]) -> None:
    compose = yaml.safe_load(texts["compose.yaml"])
    assert set(compose["services"]) == {"database", "server", "worker"}
    for name in ("server", "worker"):
        service = compose["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["depends_on"]["database"]["condition"] == "service_healthy"
    assert compose["services"]["server"]["ports"] == ["127.0.0.1:8765:8765"]
    assert "POSTGRES_PASSWORD:?" in texts["compose.yaml"]  # there is no password to forget to change
    assert set(compose["volumes"]) == {"database", "omium"}


def test_the_unit_is_one_that_systemd_takes(texts: dict[str, str], tmp_path: Path) -> None:
    unit = texts["omium.service"]
    assert "User=omium" in unit and "NoNewPrivileges=true" in unit and "OMIUM_PROJECT=/srv/shop/current" in unit
    (tmp_path / "omium.service").write_text(unit)
    verifier = shutil.which("systemd-analyze")
    if verifier is not None:
        told = subprocess.run([verifier, "verify", str(tmp_path / "omium.service")], capture_output=True, text=True)
        assert "Unknown" not in told.stderr and "Failed to parse" not in told.stderr, told.stderr
    for line in unit.splitlines():
        assert not line or line[0] in "#[" or line.startswith("  ") or re.match(r"[A-Z]\w+=\S", line), line


def test_commands_in_the_files_exist(texts: dict[str, str]) -> None:
    """Every `omium ...` that a file runs or recommends is one that the command line takes."""
    from tests.docs.test_snippets import parse_omium

    for line in re.findall(r"omium ((?:token|health|worker|serve) ?[a-z0-9. -]*)", "\n".join(texts.values())):
        parse_omium(line.split())
    assert json.loads(re.findall(r"^CMD (.*)$", texts["Dockerfile"], re.M)[-1])[0] == "omium"
    parse_omium(json.loads(re.findall(r"^CMD (.*)$", texts["Dockerfile"], re.M)[-1])[1:])
