"""The key under which forms that lie open at clients are sealed, so that a form outlives the server it came from."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from omium.server.config import Config

_log = logging.getLogger(__name__)

_NAME: Final = "forms.key"
_BYTES: Final = 32


def form_key(config: Config) -> bytes:
    """With a key of the hash chain, one made from that: every server of the database then takes the answers to every
    other's forms. Otherwise one that is made once and kept in Omium's own directory; where that cannot be, a new one,
    and forms die with this process. Raises what `config.chain_key` raises."""
    chain = config.chain_key()
    if chain is not None:
        return hmac.digest(chain, b"omium forms", hashlib.sha256)
    path = config.home / _NAME
    try:
        return _kept(path)
    except OSError as error:
        _log.warning("%s cannot be used, so forms end with this server: %s", path, error.strerror or error)
        return secrets.token_bytes(_BYTES)


def _kept(path: Path) -> bytes:
    """What the file holds; a new key is written if there is none. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    if not path.exists():
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_BYTES))
            os.link(fresh, path)  # whole, and never in the place of another server's
        except FileExistsError:
            pass
        finally:
            fresh.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        key = file.read(_BYTES + 1)
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or found.st_uid != os.geteuid():
        raise PermissionError("others than its owner have access to it")
    if len(key) != _BYTES:
        raise OSError("it is no key")
    return key
