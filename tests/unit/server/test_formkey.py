"""The key of forms: kept, its owner's only, and never in the way of a server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omium.server.config import Config, load_config
from omium.server.formkey import form_key

FILE = "forms.key"


def config_of(home: Path, **more: str) -> Config:
    return load_config(environ={"OMIUM_HOME": str(home), **more})


def test_it_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor(8) as pool:
        [key] = set(pool.map(lambda _: form_key(config_of(home)), range(8)))
    assert len(key) == 32
    assert form_key(config_of(home)) == key
    assert form_key(config_of(tmp_path / "other")) != key
    assert (home / FILE).stat().st_mode & 0o777 == 0o600
    assert [one.name for one in home.iterdir()] == [FILE]


@pytest.mark.parametrize(("content", "mode"), [(b"k" * 32, 0o644), (b"short", 0o600), (b"k" * 33, 0o600)])
def test_a_file_that_cannot_be_it_is_left_and_not_used(tmp_path: Path, content: bytes, mode: int) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    path.chmod(mode)
    one, other = form_key(config_of(tmp_path)), form_key(config_of(tmp_path))
    assert len({one, other, content[:32]}) == 3
    assert path.read_bytes() == content


def test_a_home_that_cannot_be_written_costs_forms_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert len(form_key(config_of(tmp_path / "file" / "home"))) == 32


def test_servers_of_one_chain_key_share_it(tmp_path: Path) -> None:
    secret = tmp_path / "chain.key"
    secret.write_bytes(b"c" * 32)
    secret.chmod(0o600)
    keys = {form_key(config_of(tmp_path / name, OMIUM_CHAIN_KEY_FILE=str(secret))) for name in ("a", "b")}
    assert len(keys) == 1
    assert b"c" * 32 not in keys
    assert not (tmp_path / "a").exists()
