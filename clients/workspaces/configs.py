"""Files of the operator's that a workspace is given: by an allow-list, and never one that holds credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from omium.clients.workspaces.beneath import Beneath
from omium.clients.workspaces.paths import path_parts
from omium.orchestration.errors import OmiumError

_LARGEST = 1024 * 1024
_SECRET = re.compile(
    r"(?i)\A(?:\.env(?:\..*)?|.*\.(?:pem|key|p12|pfx|jks|kdbx)|id_(?:rsa|dsa|ecdsa|ed25519)|\.netrc|\.pgpass|\.npmrc|\.pypirc"
    r"|\.?credentials(?:\..*)?|\.?secrets?(?:\..*)?|\.git-credentials|auth\.json)\Z"
)


def check_config(name: str) -> str:
    """`name` itself if it may be copied into a workspace; `invalid_argument` for a path that leaves it, one into the
    repository's own directory, and names under which credentials are kept: those belong into `pass_env`."""
    parts = path_parts(name)
    if not parts or parts[0] == ".git":
        raise OmiumError("invalid_argument", f"{name!r} cannot be copied into a workspace.")
    if any(_SECRET.match(part) for part in parts):
        raise OmiumError(
            "invalid_argument",
            f"{name!r} is the name of a file with credentials, which are never written into a workspace.",
            "Hand variables on with pass_env.",
        )
    return name


def copy_configs(configs: Iterable[tuple[str, Path]], workspace: Path) -> None:
    """Copy each file to its path in the workspace, unless something is there; never through a symbolic link. Blocking.
    Raises `not_found`, `invalid_argument`, `workspace`."""
    for name, source in configs:
        check_config(name)
        try:
            content = source.read_bytes()
        except OSError as error:
            raise OmiumError("not_found", f"The file {str(source)!r} cannot be read: {error.strerror}.") from error
        if len(content) > _LARGEST:
            raise OmiumError("invalid_argument", f"{str(source)!r} has more than {_LARGEST} bytes.")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with Beneath(workspace) as beneath:
                above, last = beneath.parent(os.fsencode("/".join(path_parts(name))), create=True)
                with open(os.open(last, flags, 0o600, dir_fd=above), "wb") as file:
                    file.write(content)
        except FileExistsError:
            continue  # the repository's own, or an earlier attempt's
        except OSError as error:
            raise OmiumError(
                "workspace", f"{name!r} cannot be written into the workspace: {error.strerror}."
            ) from error
