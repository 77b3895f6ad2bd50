"""Writes the pages that say what the code says already: `python -m tests.docs.generate [--demo]`.

`docs/commands.md` comes from the commands themselves, `docs/tools.md` and `docs/resources.md` from the server; in
`docs/workflows.md` and `docs/policy.md` the types and defaults of keys, in `docs/comparison.md` the figures. A test
holds them against what is on disk. With --demo the demo is played, and README shows what it said.
"""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from omium.server.cli import COMMANDS, cli
from omium.server.commands.base import OmiumCommand
from omium.tools.prompts import PROMPTS
from omium.tools.tool import ToolSpec, build_tool
from omium.tools.toolsets import TOOLSETS
from omium.tools.uris import STATIC, TEMPLATES
from tests.cli.harness import PROGRAM
from tests.docs.figures import with_figures
from tests.docs.reference import filled
from tests.docs.rest import rest_page
from tests.house.tree import ROOT

NOTE = "<!-- Written by `python -m tests.docs.generate`; a test holds it against the code. -->"

COMMANDS_INTRODUCTION = """\
`omium` and `omium-mcp` are the same program. `omium COMMAND --help` says what stands here.

- A **RUN** is an id, its unique beginning or end (at least 4 characters), or `last`, the newest that no other run has
  started. A position of it is `RUN@NUMBER`.
- Results go to standard output: a table on a terminal, tab-separated values without a heading in a pipe (times in UTC,
  durations as `4117ms`), JSON with `--json`. Progress, hints and warnings go to standard error.
- An error is a line `error: ...`, often with a `hint: ...`, and with `--json` the object
  `{"error": {"code", "message", "hint", "data"}}`; both on standard error.
- What would call something again that a run has called (a tool, a command, an effect of a function), or would call a
  compensation, is shown first: `rollback`, `branch` and `play-from` ask at a terminal; elsewhere they end with 5 and
  want `--plan TOKEN`, which `--preview` gives, or `--yes`. Only commands and tools that are declared with
  `on_unknown: rerun` are called again without that.
- A run never depends on the command that started it. Where runs have to be executed and nobody does, a command leaves a
  background worker behind, which ends when it is idle. One that only looks at a PostgreSQL database, on which other
  machines may work, says so instead.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: the run, the check, or the command itself |
| 2 | usage: an argument, a definition or a name that is not valid |
| 3 | waiting for a decision |
| 4 | not found |
| 5 | conflict: the state does not allow it, somebody was first, or it has to be previewed |
| 6 | the time of `show --wait --exit-status` is over, and the run is still under way |
| 130 | interrupted, or a question answered with no |
"""

TOOLS_INTRODUCTION = """\
What `omium-mcp serve` offers to an MCP client. `--read-only` leaves only the tools that read. Every answer is an object
with a schema, which clients get with the list of tools; errors are objects too, with `code`, `message`, `hint`, what is
allowed now, and the next call.

One rule holds for `rollback`, `branch` and `play_from_node`: what would call something again that the run has called,
or may have (a tool, a command, an effect of a function), or would call a compensation, is refused with `plan_required`
and the plan in `data.plan`. The same call with its `plan_token` does just that, once, within ten minutes; a try that is
refused leaves the token good. Calls that the operator declared with `on_unknown: rerun` are repeated without a plan.
"""


RESOURCES_INTRODUCTION = """\
What an MCP client reads, beside calling [tools](tools.md): resources by URI, prompts from a menu. Reading changes
nothing, and shows a caller what the tools would show; a run of somebody else is as unknown as one that there is not
(error -32602).

- **Names are percent-encoded as a whole.** The node `fan[3].test` is `omium://runs/RUN/nodes/fan%5B3%5D.test`, the file
  `notes/plan.md` is `.../artifacts/notes%2Fplan.md` or `.../artifacts/notes/plan.md`.
- **Long things come in pages.** A document that has more says so with `next`, the URI of what follows: read that. A
  value over 256 K characters comes as pieces of its JSON text (`output_text`), a file over 1 MiB as pieces of bytes
  whose `_meta` has `omium/next`. Files over 16 MiB are not given: open them in the run's workspace.
- **Keeping them.** `ttlMs` is 0 where anything may still change. A page of events that has a `next` never changes and
  may be kept for a day. All that depends on who asks is `private`.
- **Every text is shown as it is and can be seen**: characters that would hide or move something stand as JSON escapes.
"""

SUBSCRIPTIONS = """\
## Being told of changes

Any URI above can be subscribed to, and the list of resources too. On protocol 2026-07-28 that is one
`subscriptions/listen` with `resourceSubscriptions` and `resourcesListChanged`; the acknowledgement names what is
listened for, and what there is not for this caller is missing there. On older protocols it is `resources/subscribe` for
each URI, and `notifications/resources/list_changed` comes by itself.

A notification means: this may have changed, read it again if you care. It comes from the log, whichever process wrote
it: at once for a commit of the server's own process, within about 50 ms for another's on SQLite. Many changes of one
resource while a client is busy are one notification. Nothing is replayed: read what you need after subscribing, and
again after subscribing anew. Tools, prompts and workflows stay the same as long as a server runs.

A subscription to `/branches` tells of the run itself and of branches that are made from it, not of what becomes of
those.
"""

PROMPTS_INTRODUCTION = """\
## Prompts

Each is made from what is really there: the run's record, the catalogue, a comparison. That stands quoted between
`<data>` and `</data>` as one line of JSON that nothing inside can end, and the prompt says to follow no instruction in
it. Arguments and the variables of templates are completed (`completion/complete`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.generate")
    parser.add_argument("--demo", action="store_true", help="play the demo for README; when the machine is quiet")
    if parser.parse_args().demo:
        readme = ROOT / "README.md"
        readme.write_text(with_demo(readme.read_text("utf-8"), play_demo()), encoding="utf-8")
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def play_demo() -> str:
    """What `omium demo` prints."""
    command = [sys.executable, "-c", PROGRAM.format("omium"), "demo"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout


def with_demo(readme: str, output: str) -> str:
    """README with this output behind its marker."""
    marker = "<!-- demo output -->\n```text\n"
    before, found, rest = readme.partition(marker)
    assert found, marker
    return f"{before}{marker}{output.rstrip()}\n{rest[rest.index('```') :]}"


def pages() -> dict[Path, str]:
    """The generated pages by their path."""
    by_hand = [ROOT / "docs" / name for name in ("workflows.md", "policy.md")]
    comparison, benchmarks = ((ROOT / "docs" / name).read_text("utf-8") for name in ("comparison.md", "benchmarks.md"))
    return {
        **{page: filled(page.read_text("utf-8")) for page in by_hand},
        ROOT / "docs" / "comparison.md": with_figures(comparison, benchmarks),
        ROOT / "docs" / "commands.md": "\n".join(_commands()) + "\n",
        ROOT / "docs" / "tools.md": "\n".join(_tools()) + "\n",
        ROOT / "docs" / "resources.md": "\n".join(_resources()) + "\n",
        ROOT / "docs" / "rest.md": rest_page(NOTE),
    }


# --- the command line ---------------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    yield from ("# Commands", "", NOTE, "", COMMANDS_INTRODUCTION.rstrip(), "")
    yield from ("These options have the same meaning everywhere:", "")
    yield from _options(_common())
    for section, names in COMMANDS.items():
        yield from ("", f"## {section}")
        for name in names:
            yield from _command(name)


def _found(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli, info_name="omium"), name)
    assert command is not None
    return command


def _common() -> list[click.Option]:
    """The options that (nearly) all commands share, as one of them has them."""
    shared = ("project", "database", "json")
    return [one for one in _found("runs").params if isinstance(one, click.Option) and one.name in shared]


def _command(name: str) -> Iterator[str]:
    command = _found(name)
    if isinstance(command, click.Group):
        for below, inner in command.commands.items():
            yield from _single(f"{name} {below}", inner)
    else:
        yield from _single(name, command)


def _single(name: str, command: click.Command) -> Iterator[str]:
    arguments = [one.make_metavar(click.Context(command)) for one in command.params if isinstance(one, click.Argument)]
    yield from ("", f"### omium {name}", "")
    yield from ("`" + " ".join(["omium", name, *arguments]) + "`", "")
    yield inspect.cleandoc(command.help or "")
    shared = {one.name for one in _common()}
    own = [one for one in command.params if isinstance(one, click.Option) and one.name not in shared]
    if own:
        yield ""
        yield from _options(own)
    missing = shared - {one.name for one in command.params}
    if missing:
        without = ", ".join(f"`--{one}`" for one in ("project", "database", "json") if one in missing)
        yield from ("", f"It does not take {without}.")
    if isinstance(command, OmiumCommand):
        yield from ("", "```sh", *command.examples, "```")


def _options(options: list[click.Option]) -> Iterator[str]:
    yield from ("| option | meaning |", "|---|---|")
    for option in options:
        context = click.Context(click.Command("omium"), show_default=False)
        record = option.get_help_record(context)
        assert record is not None, option.name
        names, text = record
        yield f"| {_cell(names, code=True)} | {_cell(text)} |"


# --- the tools ----------------------------------------------------------------------------------------------------


def _tools() -> Iterator[str]:
    yield from ("# Tools", "", NOTE, "", TOOLS_INTRODUCTION.rstrip())
    for name, specs in TOOLSETS.items():
        yield from ("", f"## Toolset {name}")
        for spec in specs:
            yield from _tool(spec)


def _tool(spec: ToolSpec) -> Iterator[str]:
    tool = build_tool(spec)
    yield from ("", f"### {spec.name}", "", " ".join((tool.description or "").split()), "", _effect(spec), "")
    yield from ("| argument | type | meaning |", "|---|---|---|")
    schema = tool.parameters
    for name, part in schema.get("properties", {}).items():
        needed = " (required)" if name in schema.get("required", ()) else ""
        yield f"| `{name}`{needed} | {_cell(_type(part, schema))} | {_cell(part.get('description', ''))} |"
    answer = tool.output_schema or {}
    fields = ", ".join(
        f"`{name}`" + ("" if name in answer.get("required", ()) else "?") for name in answer.get("properties", {})
    )
    yield from ("", f"Gives {fields}.")


def _resources() -> Iterator[str]:
    yield from ("# Resources and prompts", "", NOTE, "", RESOURCES_INTRODUCTION.rstrip(), "")
    yield from ("| resource | what it is | form |", "|---|---|---|")
    for one in (*STATIC, *TEMPLATES):
        yield f"| `{one.template}` | {_cell(one.description)} | `{one.mime_type}` |"
    yield from ("", SUBSCRIPTIONS.rstrip(), "", PROMPTS_INTRODUCTION.rstrip(), "")
    yield from ("| prompt | arguments | what it does |", "|---|---|---|")
    for prompt in PROMPTS:
        arguments = ", ".join(f"`{one.name}`" + ("" if one.required else "?") for one in prompt.shown().arguments or ())
        yield f"| `{prompt.name}` | {arguments} | {_cell(prompt.description)} |"


def _effect(spec: ToolSpec) -> str:
    hints = spec.annotations
    said = ["Reads only." if hints.read_only_hint else "Changes something."]
    if hints.destructive_hint:
        said.append("Can undo or end work.")
    if hints.idempotent_hint and not hints.read_only_hint:
        said.append("A repeat changes nothing more.")
    if hints.open_world_hint:
        said.append("May set work going that reaches the outside.")
    return " ".join(said)


def _type(part: dict[str, Any], root: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in part:
        return _type(root["$defs"][part["$ref"].rpartition("/")[2]], root)
    if "enum" in part:
        words = " \\| ".join(f"`{one}`" for one in part["enum"])
    elif "anyOf" in part:
        words = " or ".join(_type(one, root) for one in part["anyOf"])
    elif part.get("type") == "array":
        words = f"list of {_type(part.get('items', {}), root)}"
    else:
        words = str(part.get("type", "any value"))
    low, high = part.get("minimum"), part.get("maximum")
    if part.get("exclusiveMinimum") is not None:
        words += f" > {part['exclusiveMinimum']}"
    if low is not None and high is not None:
        words += f", {low} to {high}"
    elif low is not None:
        words += f" >= {low}"
    elif high is not None:
        words += f", at most {high}"
    return words + (f", `{part['default']}` unless given" if part.get("default") is not None else "")


def _cell(text: str, *, code: bool = False) -> str:
    """Text for a cell of a table, on one line."""
    line = re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))
    return f"`{line}`" if code else line


if __name__ == "__main__":
    main()
