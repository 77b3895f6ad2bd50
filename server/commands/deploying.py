"""Bringing a project to where it runs: `deploy key`, `bundle`, `verify`, `install`, `list`, `files`."""

from __future__ import annotations

from pathlib import Path

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import safe
from omium.server.commands.opening import configuration, local_caller

_PATH = click.Path(path_type=Path, resolve_path=True)
_TRUST = click.option(
    "--trust", "trusted", type=_PATH, multiple=True, required=True, metavar="FILE",
    help="A public key whose bundles are taken; may be repeated.",
)  # fmt: skip


@click.group()
def deploy() -> None:
    """Bundle a project, sign it, and install it where it runs."""


@command("omium deploy key ~/.omium/deploy.key", name="key", located=False)
@click.argument("file", type=_PATH)
async def key(invocation: Invocation, file: Path) -> None:
    """Make a key that signs bundles. The public half, FILE.pub, is what environments trust."""
    from omium.server.deploying.keys import key_id, make_key, read_public

    public = make_key(file)
    if invocation.console.json:
        invocation.console.view({"private": str(file), "public": str(public), "key": key_id(read_public(public))})
    else:
        invocation.console.text(str(public))
        invocation.console.note("keep the private key where agents cannot read it: whoever has it can deploy.")


@command("omium deploy bundle shop.omium --key ~/.omium/deploy.key --exclude 'data/*'", name="bundle")
@click.argument("output", type=_PATH)
@click.option("--key", "signer", type=_PATH, required=True, metavar="FILE", help="The private key to sign with.")
@click.option(
    "--include", multiple=True, metavar="PATTERN", help="Further files, beside those that the project refers to."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Files to leave out.")
async def bundle(
    invocation: Invocation, output: Path, signer: Path, include: tuple[str, ...], exclude: tuple[str, ...]
) -> None:
    """Write the project as one signed file: its definitions, agents and policies, the code behind its functions, and
    the files that those name; nothing else of its directory, unless --include says so. The same project makes the
    same bundle. What may be a secret by its name is left out, and what looks like one refuses the whole."""
    from omium.server.deploying.bundle import left_out, write_bundle
    from omium.server.deploying.keys import read_private

    config = configuration(invocation)
    if config.start is None or not config.start.is_file():
        raise OmiumError("not_found", "there is no omium.yaml to bundle.", "Begin a project: omium init")
    made = write_bundle(output, config.project, config.start, read_private(signer), include=include, exclude=exclude)
    console = invocation.console
    if console.json:
        console.view(made)
        return
    console.table(("sha256", "file"), [(digest[:16], path) for path, digest in made.files.items()])
    missing = left_out(config.project, made)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        told = f"{', '.join(missing[:5])}{more}"
        console.note(f"left out, as nothing refers to it: {told}. What code reads by itself: --include PATTERN")
    console.note(f"{output}: {made.project}, release {made.digest[:16]}, signed by {made.signed_by}")


@command("omium deploy verify shop.omium --trust deploy.key.pub", name="verify", located=False)
@click.argument("file", type=_PATH)
@_TRUST
async def verify(invocation: Invocation, file: Path, trusted: tuple[Path, ...]) -> None:
    """Check that a bundle is what a trusted key has signed. Exits with 1 for one that was tampered with."""
    from omium.server.deploying.bundle import read_bundle
    from omium.server.deploying.keys import read_public

    found, _ = read_bundle(file, [read_public(one) for one in trusted])
    console = invocation.console
    if console.json:
        console.view(found)
        return
    console.fields(
        [
            ("project", safe(found.project)),
            ("release", found.digest[:16]),
            ("made by omium", safe(found.omium)),
            ("signed by", found.signed_by),
            ("files", len(found.files)),
            ("policy", (found.policy or "none declared")[:16]),
        ]
    )
    console.table(("workflow", "definition"), [(name, digest[:16]) for name, digest in found.workflows.items()])


@command("omium deploy install shop.omium production --trust deploy.key.pub", name="install")
@click.argument("file", type=_PATH)
@click.argument("environment", type=_PATH)
@_TRUST
async def install(invocation: Invocation, file: Path, environment: Path, trusted: tuple[Path, ...]) -> None:
    """Install a bundle in an ENVIRONMENT, which is a directory, and make it current. The environment's project log
    says so. Restart what serves it; going back is installing the older bundle again."""
    from datetime import UTC, datetime

    from omium.server.deploying.bundle import read_bundle
    from omium.server.deploying.keys import read_public
    from omium.server.deploying.releases import CURRENT, install
    from omium.storage.open import open_store

    found, files = read_bundle(file, [read_public(one) for one in trusted])
    by = local_caller(configuration(Invocation(invocation.console, environment.parent, None), definitions=False))
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    release = install(found, files, environment, at, by.principal)
    config = configuration(Invocation(invocation.console, environment / CURRENT, invocation.database))
    store = await open_store(config.database, chain_key=config.chain_key(), durability=config.durability)
    try:
        told = {"release": release.digest, "signed_by": release.signed_by, "omium": release.omium}
        await store.record(config.project.id, "deployment.installed", by.principal, told)
    finally:
        await store.close()
    if invocation.console.json:
        invocation.console.view(release)
    else:
        invocation.console.text(f"{release.release}\tcurrent")
        invocation.console.note(f"serve it: omium serve --transport http --project {environment / CURRENT}")


@command("omium deploy list production", name="list", located=False)
@click.argument("environment", type=_PATH)
async def list_(invocation: Invocation, environment: Path) -> None:
    """List what was installed in an environment. The newest comes first."""
    from omium.server.deploying.releases import releases

    found = releases(environment)
    console = invocation.console
    if console.json:
        console.view(found)
        return
    if not found:
        console.note(f"nothing. Install something: omium deploy install BUNDLE {environment} --trust FILE")
        return
    console.table(
        ("", "release", "project", "omium", "installed", "by", "signed by"),
        [
            ("current" if one.current else "", one.release, one.project, one.omium, one.at, one.by, one.signed_by)
            for one in found
        ],
    )


@command("omium deploy files ops --home /srv/shop", name="files")
@click.argument("directory", type=_PATH)
@click.option(
    "--home", type=_PATH, metavar="DIR", help="The environment whose `current` is served; that of the project, if any."
)
async def files(invocation: Invocation, directory: Path, home: Path | None) -> None:
    """Write what runs a project elsewhere: a service of systemd, a Dockerfile, a Compose file with PostgreSQL, the
    configuration, alerts and dashboard for Prometheus and Grafana, and an MCPB bundle for desktop hosts."""
    from importlib.metadata import PackageNotFoundError, version

    from omium.server.deploying.files import write_files
    from omium.server.install.bundle import write_bundle

    config = configuration(invocation)
    try:
        installed = version("omium-mcp")
    except PackageNotFoundError:
        installed = None
    written = write_files(directory, config.project.id, home or config.project.directory.parent, installed)
    if installed is not None:
        written.append(write_bundle(directory / "omium.mcpb").file)
    else:
        invocation.console.note("without an MCPB bundle: Omium is not installed as a distribution here.")
    if invocation.console.json:
        invocation.console.view({"directory": str(directory), "files": [one.name for one in written]})
        return
    for one in written:
        invocation.console.text(safe(one.name))


for _command in (key, bundle, verify, install, list_, files):
    deploy.add_command(_command)
