"""Who may deploy: an Ed25519 key that signs bundles, and its public half, which an environment trusts."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omium.orchestration.errors import OmiumError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PUBLIC: Final = "omium-ed25519 "


def make_key(path: Path) -> Path:
    """Write a new private key, for its owner only, and beside it the public one, whose path is given. Raises `conflict`
    when one of them exists."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = path.with_name(f"{path.name}.pub")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for target, content, mode in ((path, pem, 0o600), (public, public_text(key.public_key()).encode(), 0o644)):
        try:
            descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        except FileExistsError:
            raise OmiumError("conflict", f"{str(target)!r} exists.", "Name another file.") from None
        except OSError as error:
            raise OmiumError("invalid_argument", f"cannot write {str(target)!r}: {error.strerror}.") from error
        with open(descriptor, "wb") as file:
            file.write(content)
    return public


def read_private(path: Path) -> Ed25519PrivateKey:
    """Raises `invalid_argument` for a file that is no such key, or that others can read."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    content = _read(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OmiumError(
            "invalid_argument", f"{path} can be read by others, so anybody may have the key.", f"chmod 600 {path}"
        )
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise OmiumError("invalid_argument", f"{path} holds no Ed25519 key.", "Make one: omium deploy key FILE")
    return key


def read_public(path: Path) -> Ed25519PublicKey:
    """Raises `invalid_argument` for a file that is no public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    text = _read(path).decode("utf-8", "replace").strip()
    try:
        if not text.startswith(_PUBLIC):
            raise ValueError
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.removeprefix(_PUBLIC), validate=True))
    except ValueError:
        told = f"{path} holds no public key of `omium deploy key`."
        raise OmiumError("invalid_argument", told, "It ends with .pub.") from None


def public_text(key: Ed25519PublicKey) -> str:
    return _PUBLIC + base64.b64encode(key.public_bytes_raw()).decode() + "\n"


def key_id(key: Ed25519PublicKey) -> str:
    """16 hexadecimal digits by which people tell keys apart."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OmiumError("not_found", f"cannot read {str(path)!r}: {error.strerror}.") from error
