"""`notify:` of omium.yaml, and the commands that look after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from omium.orchestration.errors import OmiumError
from omium.server.config import load_config
from omium.server.notify.endpoints import PAGERDUTY_URL, Secret
from tests.cli.harness import Place

WHOLE = """
project: shop
notify:
- {name: ops, url: "https://hooks.example.com/x", secret_env: S, events: ["run.*"], workflows: ["release-*"]}
- {name: chat, kind: slack, url_file: keys/slack}
- {name: pager, kind: pagerduty, routing_key_env: K, timeout: 3s}
"""


def load(directory: Path, text: str) -> object:
    (directory / "omium.yaml").write_text(text)
    return load_config(directory, {})


def test_endpoints_are_declared(tmp_path: Path) -> None:
    (tmp_path / "omium.yaml").write_text(WHOLE)
    ops, chat, pager = load_config(tmp_path, {}).notify
    assert (ops.kind, ops.url, ops.key) == ("webhook", "https://hooks.example.com/x", Secret("S"))
    assert ops.types and all(one.startswith("run.") for one in ops.types)
    assert ops.wants("release-1") and not ops.wants("other")
    assert chat.url == Secret(file=(tmp_path / "keys/slack").resolve())
    assert "approval.requested" in chat.types and "run.completed" not in chat.types
    assert (pager.url, pager.timeout_s) == (PAGERDUTY_URL, 3.0)


@pytest.mark.parametrize(
    "entry",
    [
        "{name: a}",
        "{name: a, url: 'https://x.example'}",
        "{name: a, url: 'https://x.example', url_env: U, secret_env: S}",
        "{name: a, url: 'https://x.example', secret_env: S, secret_file: f}",
        "{name: a, url: 'http://x.example', secret_env: S}",
        "{name: a, url: 'ftp://x.example', secret_env: S}",
        "{name: a, url: 'https://x.example', secret_env: S, events: [nothing]}",
        "{name: a, url: 'https://x.example', secret_env: S, colour: red}",
        "{name: a, kind: slack, url_env: U, secret_env: S}",
        "{name: a, kind: pagerduty}",
        "{name: a, kind: pigeon, url_env: U}",
        "{name: a, kind: slack, url_env: U}\n- {name: a, kind: slack, url_env: V}",
        "{name: 'a b/c', kind: slack, url_env: U}",
        "{name: a, kind: slack, url_env: U, timeout: 5m}",
    ],
)
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, entry: str) -> None:
    with pytest.raises(OmiumError) as refusal:
        load(tmp_path, f"project: shop\nnotify:\n- {entry}\n")
    assert refusal.value.code == "invalid_definition"
    assert "omium.yaml:" in refusal.value.message


def test_commands(tmp_path: Path) -> None:
    place = Place.make(tmp_path / "shop")
    assert place.call("notify", "list").exit_code == 0
    assert place.json("notify", "list") == []
    assert place.call("notify", "test", "ops").exit_code == 4
    assert place.call("notify", "retry").exit_code == 2
    assert place.call("notify", "retry", "ntc_1").exit_code == 4
    assert place.json("notify", "retry", "--all") == {"retried": 0, "failed": 0}


def test_a_run_tells_before_its_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers at that port, so what was to be told waits, with the reason, and can be tried again."""
    monkeypatch.setenv("SECRET_OF_TEST", "s" * 32)
    place = Place.make(tmp_path / "shop")
    with (tmp_path / "shop/omium.yaml").open("a") as file:
        file.write(
            "notify:\n- {name: ops, url: 'http://127.0.0.1:9/', secret_env: SECRET_OF_TEST, allow_private: true}\n"
        )
    done = place.omium("run", "asking", env={"OMIUM_DETACH": "false", "SECRET_OF_TEST": "s" * 32})
    assert done.code == 3, done.err
    (waiting,) = place.json("notify", "list")
    assert (waiting["type"], waiting["status"], waiting["attempts"]) == ("approval.requested", "waiting", 1)
    assert "cannot be reached" in waiting["problem"]
    failed = place.call("notify", "test", "ops")
    assert failed.exit_code == 1 and "cannot be reached" in failed.stderr
