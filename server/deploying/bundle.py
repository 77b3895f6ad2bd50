"""A signed bundle of a project.

A zip with the project's files, `manifest.json` (what they are, by SHA-256, and which definitions they make) and
`signature.json` (Ed25519 over the manifest's bytes). The same project makes the same bundle, and its digest, that of
the manifest, is the release's name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from omium.clients.external.redact import secret_in
from omium.orchestration.errors import OmiumError
from omium.server.deploying.keys import key_id
from omium.server.deploying.referred import LOADED, referred

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from omium.server.project import Project

FORM: Final = "omium.bundle.v1"
MANIFEST, SIGNATURE, FILES = "manifest.json", "signature.json", "project/"
SECRETS: Final = ("*.env", ".env*", "*.key", "*.pem", "*.p12", "*.db", "*.dump", ".netrc", ".npmrc", ".pypirc")
"""Never in a bundle, whoever names them."""
SOUNDING: Final = ("*secret*", "*credential*", "*token*", "*password*")
"""Nor these, unless they are definitions or code."""
STRAY: Final = ("*~", "#*#", "*.bak", "*.orig", "*.rej", "*.swp", "*.swo", "*.tmp", "*.pyc", "*.pyo", "*.log")
"""What editors and interpreters leave behind."""
MOST_FILES: Final = 5_000
LARGEST: Final = 64 * 1024 * 1024  # bytes of all files together

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same project makes the same bundle
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_NAME: Final = re.compile(r"[A-Za-z0-9_.@+,= -]+(/[A-Za-z0-9_.@+,= -]+)*")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle says of itself, once it is verified. files: SHA-256 by path below the project's directory;
    workflows: the digest of each definition; policy: of what decides about calls, None where nothing was declared."""

    digest: str
    project: str
    omium: str
    workflows: Mapping[str, str]
    policy: str | None
    files: Mapping[str, str]
    signed_by: str


def write_bundle(
    output: Path,
    project: Project,
    file: Path,
    key: Ed25519PrivateKey,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Bundle:
    """Bundle the project whose `omium.yaml` is `file`: what it refers to, and no other file of its directory. include:
    patterns of further files; exclude: of files to leave.

    What could hold a secret by its name is left out, and what has the form of one refuses the whole. Raises
    `invalid_argument`, and `conflict` when `output` exists."""
    from importlib.metadata import PackageNotFoundError, version

    from omium.orchestration.definition.hashing import definition_hash

    contents = dict(_contents(project, file, include, exclude, output))
    if file.name not in contents:
        raise OmiumError("invalid_argument", f"{file.name} is not among the files.", "Do not exclude it.")
    try:
        installed = version("omium-mcp")
    except PackageNotFoundError:
        installed = "0"
    files = {path: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
    manifest = _json(
        {
            "form": FORM,
            "project": project.id,
            "omium": installed,
            "start": file.name,
            "workflows": {name: definition_hash(one) for name, one in sorted(project.workflows.items())},
            "policy": _policy_digest(file, contents),
            "files": files,
        }
    )
    told = {
        "algorithm": "ed25519",
        "key": key_id(key.public_key()),
        "signature": base64.b64encode(key.sign(manifest)).decode(),
    }
    members = {MANIFEST: manifest, SIGNATURE: _json(told)} | {FILES + path: data for path, data in contents.items()}
    _write(output, members)
    return _described(manifest, told["key"])


def read_bundle(path: Path, trusted: Sequence[Ed25519PublicKey]) -> tuple[Bundle, dict[str, bytes]]:
    """A bundle and its files, verified. Raises `integrity` when anything of it is not what one of the trusted keys has
    signed: nothing of it may be used then."""
    members = _members(path)
    manifest, signature = members.pop(MANIFEST, None), members.pop(SIGNATURE, None)
    if manifest is None or signature is None:
        raise _bad(path, "it has no manifest or no signature")
    signer = _signer(path, manifest, signature, trusted)
    try:
        bundle = _described(manifest, signer)
    except (ValueError, KeyError, TypeError):
        raise _bad(path, "its manifest cannot be read") from None
    found = {name.removeprefix(FILES): data for name, data in members.items() if name.startswith(FILES)}
    if len(found) != len(members) or set(found) != set(bundle.files):
        raise _bad(path, "it does not hold exactly the files that its manifest names")
    for name, data in found.items():
        if hashlib.sha256(data).hexdigest() != bundle.files[name]:
            raise _bad(path, f"{name} is not what was signed")
    return bundle, found


def _signer(path: Path, manifest: bytes, signature: bytes, trusted: Sequence[Ed25519PublicKey]) -> str:
    from cryptography.exceptions import InvalidSignature

    try:
        given = base64.b64decode(json.loads(signature)["signature"], validate=True)
    except (ValueError, KeyError, TypeError):
        raise _bad(path, "its signature cannot be read") from None
    for key in trusted:
        try:
            key.verify(given, manifest)
        except InvalidSignature:
            continue
        return key_id(key)
    raise _bad(path, "no trusted key has signed it")


def _members(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_FILES + 2 or sum(one.file_size for one in entries) > LARGEST:
                raise _bad(path, "it is larger than any bundle that is written")
            for one in entries:
                if one.filename in found or not _is_plain(one.filename):
                    raise _bad(path, f"{one.filename[:100]!r} is no name of a file in a bundle")
                found[one.filename] = archive.read(one)  # which holds it to the size that was added up above
    except FileNotFoundError:
        raise OmiumError("not_found", f"there is no file {str(path)!r}.") from None
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise _bad(path, f"it is no zip that can be read: {type(error).__name__}") from error
    return found


def _is_plain(name: str) -> bool:
    """A path that stays where it is put."""
    parts = PurePosixPath(name).parts
    return _NAME.fullmatch(name) is not None and ".." not in parts and str(PurePosixPath(name)) == name


def _contents(
    project: Project, file: Path, include: Sequence[str], exclude: Sequence[str], output: Path
) -> Iterator[tuple[str, bytes]]:
    """The files of a project, by their paths. Links are none of them."""
    total = count = 0
    for inside, path in _chosen(project, file, include, exclude, output):
        if not _is_plain(inside):
            raise OmiumError("invalid_argument", f"{inside[:100]!r} is no name for a file in a bundle.")
        data = path.read_bytes()
        count, total = count + 1, total + len(data)
        at = secret_in(data.decode("utf-8", "replace"))
        if at is not None:
            what = "a private key" if _PRIVATE_KEY.search(data) else "what looks like a key or a password"
            line = data.decode("utf-8", "replace").count("\n", 0, at) + 1
            raise OmiumError(
                "invalid_argument", f"{inside}:{line} holds {what}.",
                f"Put it into a variable of the environment, or leave the file out: --exclude {inside}",
            )  # fmt: skip
        if count > MOST_FILES or total > LARGEST:
            raise OmiumError(
                "invalid_argument", f"the project has more than {MOST_FILES} files, or {LARGEST} bytes.",
                "Leave out what does not belong to it: --exclude 'data/*'",
            )  # fmt: skip
        yield inside, data


def left_out(project: Project, bundle: Bundle) -> list[str]:
    """Files of the project's directory that are neither in the bundle nor such as never are: somebody may miss them."""
    never = (*SECRETS, *SOUNDING, *STRAY)
    inside = (path.relative_to(project.directory).as_posix() for path in _all(project.directory))
    return [one for one in inside if one not in bundle.files and not _matches(one, never)]


def _chosen(
    project: Project, file: Path, include: Sequence[str], exclude: Sequence[str], output: Path
) -> list[tuple[str, Path]]:
    """What the project refers to, and what is asked for besides, by its path inside; in order."""
    found: dict[str, Path] = {}
    never, not_by_name = (*SECRETS, *STRAY, *exclude), (*SECRETS, *STRAY, *SOUNDING, *exclude)
    known = referred(project, file)
    for path in (*known, *_all(project.directory)):
        inside = path.relative_to(project.directory).as_posix()
        if path not in known and not _matches(inside, include):
            continue
        if _matches(inside, never if known.get(path) == LOADED else not_by_name):
            continue
        if not path.is_symlink() and path != output.resolve():
            found[inside] = path
    return sorted(found.items())


def _all(directory: Path) -> Iterator[Path]:
    """Every file of a directory that is neither hidden nor a cache."""
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(one for one in folders if not one.startswith((".", "__pycache__")))
        paths = (Path(folder) / name for name in sorted(names) if not name.startswith("."))
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _matches(inside: str, patterns: Sequence[str]) -> bool:
    name = inside.rpartition("/")[2].lower()
    return any(fnmatchcase(name, pattern) or fnmatchcase(inside, pattern) for pattern in patterns)


def _policy_digest(file: Path, contents: Mapping[str, bytes]) -> str | None:
    """Of what the project says under `policy:`, together with the file that it may name."""
    from omium.orchestration.definition.document import read_file

    said = read_file(file).value
    policy = said.get("policy") if isinstance(said, dict) else None
    if policy is None:
        return None
    named = policy.get("path") if isinstance(policy, dict) else policy
    beside = contents.get(named, b"") if isinstance(named, str) else b""
    return hashlib.sha256(_json(policy) + beside).hexdigest()


def _described(manifest: bytes, signer: str) -> Bundle:
    told = json.loads(manifest)
    if told["form"] != FORM:
        raise ValueError
    digest = hashlib.sha256(manifest).hexdigest()
    return Bundle(digest, told["project"], told["omium"], told["workflows"], told["policy"], told["files"], signer)


def _write(output: Path, members: Mapping[str, bytes]) -> None:
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.resolve().parent)
        try:
            with open(descriptor, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for path, data in members.items():
                    info = zipfile.ZipInfo(path, _EPOCH)
                    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
                    archive.writestr(info, data)
            os.link(name, output)  # unlike a rename, it never replaces an older one
        finally:
            Path(name).unlink()
    except FileExistsError:
        raise OmiumError("conflict", f"{str(output)!r} exists.", "Name a file that does not.") from None
    except OSError as error:
        raise OmiumError("invalid_argument", f"cannot write {str(output)!r}: {error.strerror}.") from error


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _bad(path: Path, problem: str) -> OmiumError:
    return OmiumError(
        "integrity", f"the bundle {path.name} is refused: {problem}.", "Have it made again by somebody you trust."
    )
