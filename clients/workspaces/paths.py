"""Names and paths from outside: what is refused, and how the rest stays below a root.

`confine` checks a path; `open_beneath` opens one without the gap between check and use. Both compare whole components
of resolved paths, so `/base/s1x` is not below `/base/s1`.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from pathlib import Path, PurePosixPath

from omium.clients.workspaces.beneath import Beneath
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId, is_id

_MAX_PATH = 4096
_MAX_REF = 250
_DRIVE = re.compile(r"\A[A-Za-z]:")
_UNSAFE_IN_NAME = re.compile(r"[^A-Za-z0-9._-]")
_FORBIDDEN_IN_REF = frozenset(" ~^:?*[\\")
_COMMIT = re.compile(r"\A[0-9a-f]{40}\Z")


def check_run_id(run_id: str) -> RunId:
    """`run_id` itself; raises `invalid_argument` unless it is a run's id. It names directories and refs."""
    if not isinstance(run_id, str) or not is_id(run_id, "run"):
        raise OmiumError("invalid_argument", f"{run_id!r} is not a run id.")
    return RunId(run_id)


def tree_path(home: Path, run_id: str) -> Path:
    """The directory that the nodes of a run see, whether it is there or not. Raises `invalid_argument`."""
    return home / "workspaces" / "trees" / check_run_id(run_id)


def path_parts(user_path: str) -> tuple[str, ...]:
    """The components of a relative path from outside (`.` gives none).

    Refused, each as `invalid_argument`: another type, empty or over 4,096 characters, control, format and surrogate
    characters (NUL, line ends, bidirectional marks), `~` in front, absolute, drive and UNC paths, and `..`; also when
    it is one of these after compatibility normalization or with backslashes for slashes.
    """
    if not isinstance(user_path, str) or not user_path or len(user_path) > _MAX_PATH:
        raise _refused(user_path, "must be a non-empty text")
    for spelling in (user_path, unicodedata.normalize("NFKC", user_path)):
        if any(unicodedata.category(char) in {"Cc", "Cf", "Cs"} for char in spelling):
            raise _refused(user_path, "contains control or invisible characters")
        slashed = spelling.replace("\\", "/")
        if slashed.startswith(("/", "~")) or _DRIVE.match(slashed):
            raise _refused(user_path, "must be relative")
        if ".." in slashed.split("/"):
            raise _refused(user_path, "must not contain '..'")
    return PurePosixPath(user_path).parts


def confine(root: Path, user_path: str) -> Path:
    """The absolute, resolved path of `user_path` below `root` (which must exist; the path need not).

    Refuses what `path_parts` refuses, and a path that leaves `root` through symbolic links. The answer holds for the
    moment of the check: where others write below `root` meanwhile, use `open_beneath`.
    """
    parts = path_parts(user_path)
    try:
        base = root.resolve(strict=True)
        target = base.joinpath(*parts).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise _refused(user_path, "cannot be resolved") from error
    if os.path.commonpath([base, target]) != str(base):
        raise _refused(user_path, "leaves its directory")
    return target


def open_beneath(root: Path, user_path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A file descriptor of the regular file `user_path` below `root`; the caller closes it. `flags` as for os.open.

    No component may be a symbolic link, at the moment of use. For writing, a file with further hard links is refused:
    its other name may be outside. Truncation happens after these checks.
    """
    parts = path_parts(user_path)
    if not parts:
        raise _refused(user_path, "is a directory")
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
    careful = (flags & ~os.O_TRUNC) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with Beneath(root) as beneath:
        try:
            parent = beneath.dir(os.fsencode("/".join(parts[:-1])))
            descriptor = os.open(parts[-1], careful, mode, dir_fd=parent)
        except FileNotFoundError as error:
            raise OmiumError("not_found", f"There is no file {user_path!r}.") from error
        except OSError as error:
            raise _refused(user_path, f"cannot be opened ({error.strerror})") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(user_path, "is not a regular file")
        if writes and found.st_nlink > 1:
            raise _refused(user_path, "has another hard link")
        if writes and flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def node_path(home: Path, run_id: RunId, node_id: NodeId, attempt: int) -> Path:
    """`<home>/runs/<run>/nodes/<node>/<attempt>`, which need not exist.

    The node's id is written so that different ids never meet: every byte beyond letters, digits, `.`, `_`, `-` as %XX.
    """
    check_run_id(run_id)
    if not isinstance(node_id, str) or not node_id or attempt < 0:
        raise OmiumError("invalid_argument", f"{node_id!r}, attempt {attempt!r}: not an attempt of a node.")
    safe = _UNSAFE_IN_NAME.sub(lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match[0])), node_id)
    if safe.startswith("."):
        safe = "%2E" + safe[1:]
    if len(safe) > 200:
        raise OmiumError("invalid_argument", f"The node id {node_id[:40]!r}... is too long for a directory's name.")
    return home / "runs" / run_id / "nodes" / safe / str(attempt)


def node_dir(home: Path, run_id: RunId, node_id: NodeId, attempt: int) -> Path:
    """`node_path` (0700) with `data`, `outputs`, `logs` and `tmp`, made if missing."""
    directory = node_path(home, run_id, node_id, attempt)
    for name in ("data", "outputs", "logs", "tmp"):
        make_private(directory / name, above=home)
    return directory


def make_private(directory: Path, *, above: Path) -> None:
    """Makes `directory` and what is missing between it and `above`, each with mode 0700."""
    if directory.is_dir():
        return
    if directory != above:
        make_private(directory.parent, above=above)
    # Only the last level takes the mode; what encloses `above` takes the user's own.
    directory.mkdir(mode=0o700, parents=directory == above, exist_ok=True)


def check_ref(name: str) -> str:
    """`name` itself if it may name a branch or a tag, by git's own rules (git-check-ref-format) and stricter ones.

    Refused as `invalid_argument`: a leading dash (it would be read as an option), `..`, `@{`, a part that starts with
    a dot or ends with `.lock`, control, invisible and blank characters, `~^:?*[` and backslash, empty parts, `HEAD`.
    """
    reason = _ref_fault(name)
    if reason:
        shown = name[:80] if isinstance(name, str) else name
        raise OmiumError("invalid_argument", f"{shown!r} cannot name a branch or a tag: it {reason}.")
    return name


def is_commit_id(text: str) -> bool:
    """Whether this is a full commit id: 40 lower-case hexadecimal digits."""
    return _COMMIT.match(text) is not None


def _ref_fault(name: str) -> str:
    if not isinstance(name, str) or not name or len(name) > _MAX_REF:
        return f"is not a text of 1 to {_MAX_REF} characters"
    if name.startswith("-"):
        return "starts with a dash"
    if name in {"@", "HEAD"} or "@{" in name or ".." in name or name.endswith("."):
        return "has a meaning of its own to git"
    if any(char in _FORBIDDEN_IN_REF or unicodedata.category(char)[0] in "CZ" for char in name):
        return "contains a forbidden character"
    parts = name.split("/")
    if any(not part or part.startswith(".") or part.endswith(".lock") for part in parts):
        return "has a part that is empty, starts with a dot or ends with .lock"
    return ""


def _refused(user_path: object, why: str) -> OmiumError:
    shown = user_path[:120] if isinstance(user_path, str) else user_path
    return OmiumError("invalid_argument", f"The path {shown!r} {why}.", "Give a path below the run's directory.")
