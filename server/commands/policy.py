"""What runs may do outside, before anything is done: `policy lint`, `test`, `explain`, `diff`, `show`, `templates`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.arguments import pairs
from omium.server.commands.base import DONE, FAILED, USAGE, Invocation, command
from omium.server.commands.console import safe
from omium.server.commands.opening import configuration, opened

if TYPE_CHECKING:
    from omium.orchestration.gates.policy import Policy, Question
    from omium.orchestration.gates.policy.lint import Known
    from omium.orchestration.gates.policy.testing import Report
    from omium.server.declared.policy import DeclaredPolicy

_ACTIONS = ("tool", "permission", "command", "model", "network", "file")


@click.group()
def policy() -> None:
    """Check, test and explain what runs may do outside."""


@command("omium policy lint", "omium policy lint policies/main.yaml --tools tools.json --strict", name="lint")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--tools", metavar="FILE", help="The pinned tools: JSON, `server/tool` with its input schema.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
async def lint(invocation: Invocation, files: tuple[str, ...], tools: str | None, strict: bool) -> int:
    """Look for what is wrong, or hardly meant, in the project's policy or in files. Exits with 2 when one does not
    load, and with 1 for errors (with --strict also for warnings)."""
    from omium.orchestration.gates.policy.lint import lint as lint_document
    from omium.orchestration.gates.policy.lint import lint_file

    known = _known(invocation, tools, of_project=not files)
    if files:
        linted = [(path, lint_file(Path(path), known)) for path in files]
    else:
        declared = _declared(invocation)
        if isinstance(declared.policy, Path):
            linted = [(str(declared.policy), lint_file(declared.policy, known))]
        else:
            from omium.orchestration.definition.document import Document

            value = dict(declared.present().document)
            linted = [("the project's policy", lint_document(Document(value, "the project's policy", None), known))]
    console = invocation.console
    if console.json:
        console.view([{"file": path, "findings": [one.as_dict() for one in found.findings]} for path, found in linted])
    else:
        for path, found in linted:
            for one in found.findings:
                place = f"{one.file or path}:{one.line}" if one.line else f"{one.file or path}"
                rule = f" [{one.rule}]" if one.rule else ""
                console.text(safe(f"{place}: {one.severity}: {one.code}{rule}: {one.message}"))
            if not found.findings:
                console.note(f"{path}: nothing found")
    if any(found.policy is None for _, found in linted):
        return USAGE
    bad = sum(len(found.findings) if strict else found.errors for _, found in linted)
    return FAILED if bad else DONE


@command("omium policy test policies/main.cases.yaml", name="test", located=False)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--policy", "path", metavar="FILE", help="The policy; the one that each file names otherwise.")
@click.option("--templates", "library", is_flag=True, help="Test the templates that come with Omium.")
async def test(invocation: Invocation, files: tuple[str, ...], path: str | None, library: bool) -> int:
    """Hold a policy against files of cases: questions, and what it has to answer. Exits with 1 when one fails."""
    from omium.orchestration.gates.policy.library import templates
    from omium.orchestration.gates.policy.load import load_policy
    from omium.orchestration.gates.policy.testing import run_cases

    if not files and not library:
        raise OmiumError("invalid_argument", "no file of cases is named.", "omium policy test FILE, or --templates.")
    chosen = None if path is None else load_policy(path)
    reports = [run_cases(Path(one), chosen) for one in files]
    if library:
        reports += [run_cases(one.cases) for one in templates()]
    console = invocation.console
    if console.json:
        console.view([_report_dict(one) for one in reports])
    else:
        for report in reports:
            _print_report(invocation, report)
    return DONE if all(report.passed for report in reports) else FAILED


@command(
    "omium policy explain --server db --tool query --arg sql='drop table users'",
    "omium policy explain policies/main.yaml --question question.json",
    name="explain",
)
@click.argument("file", required=False)
@click.option("--action", type=click.Choice(_ACTIONS), default="tool", help="What kind of call; tool unless given.")
@click.option("--server", metavar="NAME", help="The server that the tool is of.")
@click.option("--tool", metavar="NAME", help="What is called.")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="An argument; may be repeated.")
@click.option("--agent", metavar="NAME", help="The agent that asks.")
@click.option("--workflow", metavar="NAME", help="The workflow that asks.")
@click.option("--node", metavar="ID", help="The node that asks.")
@click.option("--principal", metavar="NAME", help="Whose run it is.")
@click.option("--at", metavar="TIME", help="When it is asked, such as 2026-03-02T09:30:00+01:00; now, unless given.")
@click.option("--question", "path", metavar="FILE", help="The question in a YAML or JSON file; - reads standard input.")
async def explain(invocation: Invocation, file: str | None, path: str | None, **told: Any) -> int:
    """Say what the project's policy, or one in a file, decides about a call, and what became of each of its rules.
    Exits with 0 for allow, 3 for require_approval and 1 for deny."""
    from omium.orchestration.gates.policy.explain import explain as explained
    from omium.server.commands.base import WAITING

    question = _question(path, told)
    found = explained(_policy(invocation, file), question)
    console = invocation.console
    if console.json:
        console.view(found.as_dict())
    else:
        decision = found.decision
        fields = [
            ("effect", decision.effect),
            ("rule", decision.rule or "the default"),
            ("reason", decision.reason),
            ("policy", decision.policy),
        ]
        said = decision.as_dict()
        fields += [(name, _words(said[name])) for name in ("limits", "redact", "trusts", "approval") if name in said]
        fields += [("warning", one) for one in decision.warnings]
        console.fields(fields)
        if console.terminal:
            console.text()
        console.table(
            ("rule", "effect", "outcome", "why"),
            [(one.rule, one.effect, one.outcome.replace("_", " "), one.why) for one in found.rules],
        )
    return {"allow": DONE, "require_approval": WAITING, "deny": FAILED}[found.decision.effect]


@command(
    "omium policy diff policies/main.yaml policies/next.yaml --questions asked.jsonl",
    "omium policy diff next.yaml",
    name="diff",
)
@click.argument("before")
@click.argument("after", required=False)
@click.option("--questions", metavar="FILE", help="Recorded questions, a JSON object a line; the audit's otherwise.")
@click.option("--run", metavar="RUN", help="Of the audit, only what this run asked.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1_000, help="Of the audit, the newest; 1000.")
@click.option("--exit-status", is_flag=True, help="Exit with 1 when something is decided differently.")
async def diff(
    invocation: Invocation,
    before: str,
    after: str | None,
    questions: str | None,
    run: str | None,
    limit: int,
    exit_status: bool,
) -> int:
    """Decide recorded questions again under two versions of a policy, and list what would be decided differently. With
    one file it is compared with the project's policy. What the audit keeps has its secrets taken out."""
    from omium.orchestration.gates.policy.comparing import compare, read_questions
    from omium.orchestration.gates.policy.load import load_policy

    old, new = (
        (_policy(invocation, None), load_policy(before)) if after is None else (load_policy(before), load_policy(after))
    )
    asked = read_questions(Path(questions)) if questions else await _recorded(invocation, run, limit)
    found = compare(old, new, asked)
    console = invocation.console
    if console.json:
        console.view(
            {
                "before": old.digest,
                "after": new.digest,
                "asked": found.asked,
                "changes": [one.as_dict() for one in found.changes],
            }
        )
    else:
        console.note(f"{found.asked} questions, {len(found.changes)} decided differently")
        console.table(
            ("call", "times", "before", "rule", "after", "by", "looser"),
            [
                (
                    _call_text(one.question),
                    one.times,
                    one.before.effect,
                    one.before.rule or "default",
                    one.after.effect,
                    one.after.rule or "default",
                    "looser" if one.looser else "",
                )
                for one in found.changes
            ],
        )
    return FAILED if exit_status and found.changes else DONE


@command("omium policy show", "omium policy show policies/main.yaml --json", name="show")
@click.argument("file", required=False)
async def show(invocation: Invocation, file: str | None) -> None:
    """Show the project's policy, or one in a file, as it is understood: its version, its default and its rules."""
    found = _policy(invocation, file)
    console = invocation.console
    if console.json:
        console.view({"digest": found.digest, "document": dict(found.document)})
        return
    console.fields([("policy", found.digest), ("default", found.default), ("on error", found.on_error)])
    if console.terminal:
        console.text()
    console.table(
        ("rule", "effect", "calls", "conditions", "description"),
        [
            (
                rule.id,
                rule.effect,
                "; ".join(f"{name}: {', '.join(patterns)}" for name, patterns in rule.match.items()) or "all",
                ", ".join(place for place, _ in (*rule.of_arguments, *rule.checks)),
                rule.description,
            )
            for rule in found.rules
        ],
    )


@command("omium policy templates", "omium policy templates tools", name="templates", located=False)
@click.argument("name", required=False)
@click.option("--cases", is_flag=True, help="Print its test cases instead.")
async def templates(invocation: Invocation, name: str | None, cases: bool) -> None:
    """List policies to begin with, or print one."""
    from omium.orchestration.gates.policy.library import template
    from omium.orchestration.gates.policy.library import templates as all_of_them

    console = invocation.console
    if name is None:
        known = all_of_them()
        if console.json:
            console.view([{"name": one.name, "description": one.description} for one in known])
        else:
            console.table(("template", "description"), [(one.name, one.description) for one in known])
        return
    chosen = template(name)
    text = chosen.cases.read_text("utf-8") if cases else chosen.text()
    if console.json:
        console.view({"name": chosen.name, "description": chosen.description, "text": text})
    else:
        console.text(text.rstrip("\n"))


for _one in (lint, test, explain, diff, show, templates):
    policy.add_command(_one)


# --- where things come from ---------------------------------------------------------------------------------------


def _declared(invocation: Invocation) -> DeclaredPolicy:
    return configuration(invocation).project.policy


def _policy(invocation: Invocation, file: str | None) -> Policy:
    """The policy of a file, or the project's as it stands now."""
    from omium.orchestration.gates.policy.load import load_policy

    return _declared(invocation).present() if file is None else load_policy(file)


def _known(invocation: Invocation, tools: str | None, *, of_project: bool) -> Known:
    """What names there are, as far as that is known."""
    from omium.orchestration.gates.policy.lint import Known

    schemas = None if tools is None else _schemas(tools)
    if not of_project:
        return Known(tools=schemas)
    project = configuration(invocation).project
    # Without any server there is nothing to compare with: rules may be written before the first one is declared.
    return Known(schemas, set(project.agents.names()), set(project.workflows), set(project.servers.entries) or None)


def _schemas(path: str) -> dict[str, dict[str, Any]]:
    """The input schemas by `server/tool`, from an object of them or from a list of tools with `name` and
    `input_schema`. Raises `invalid_argument`."""
    from omium.orchestration.definition.document import read_file

    value = read_file(path).value
    listed = value.get("tools", value) if isinstance(value, dict) else value
    if isinstance(listed, list):
        given = [one if isinstance(one, dict) else {} for one in listed]  # which has no name, and so is refused
        listed = {one.get("name"): one.get("input_schema", {}) for one in given}
    if not isinstance(listed, dict) or not all(
        isinstance(name, str) and "/" in name and isinstance(schema, dict) for name, schema in listed.items()
    ):
        raise OmiumError(
            "invalid_argument", f"{path!r} does not list tools.", "Names `server/tool` with input schemas."
        )
    return listed


def _question(path: str | None, told: dict[str, Any]) -> Question:
    from datetime import UTC, datetime

    from omium.orchestration.gates.policy import question_from
    from omium.server.commands.arguments import document

    said: dict[str, Any] = document(path) if path else {}
    arguments = pairs(told.pop("arguments"))
    action = told.pop("action")
    said.setdefault("action", action)
    if arguments:
        said["arguments"] = {**said.get("arguments", {}), **arguments}
    said.update({name: value for name, value in told.items() if value is not None})
    said.setdefault("at", datetime.now(UTC).isoformat())
    if "tool" not in said:
        raise OmiumError("invalid_argument", "it is not said what is called.", "--tool NAME, or --question FILE.")
    return question_from(said)


async def _recorded(invocation: Invocation, run: str | None, limit: int) -> list[Question]:
    """What was really asked, oldest first. What is no longer stored is left out, and said."""
    from omium.orchestration.gates.policy import question_from

    found: list[Question] = []
    gone = 0
    async with opened(invocation, lists=True) as (core, caller):
        run_id = None if run is None else await core.find_run(caller, run)
        rows = await core.store.decisions(projects=[caller.project], run_id=run_id, limit=limit)
        for row in reversed(rows):
            try:
                value = await core.store.value(row.input)
            except OmiumError:
                gone += 1
                continue
            found.append(question_from(value if isinstance(value, dict) else {}))
    if gone:
        invocation.console.note(f"{gone} questions are no longer stored, and are left out")
    return found


# --- printing -----------------------------------------------------------------------------------------------------


def _report_dict(report: Report) -> dict[str, Any]:
    return {
        "file": report.file,
        "policy": report.policy.digest,
        "passed": report.passed,
        "cases": [one.as_dict() for one in report.results],
        "untested": list(report.unused),
    }


def _print_report(invocation: Invocation, report: Report) -> None:
    console = invocation.console
    failed = [one for one in report.results if not one.passed]
    for one in failed:
        place = f"{report.file}:{one.line}" if one.line else report.file
        for name, (expected, found) in one.differences.items():
            told = f"{name} is {_words(found)}, not {_words(expected)} ({one.decision.reason})"
            console.text(safe(f"{place}: {one.name}: {told}"))
    console.text(safe(f"{report.file}: {len(report.results) - len(failed)} passed, {len(failed)} failed"))
    if report.unused:
        console.note(f"{report.file}: no case reaches {', '.join(report.unused)}")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_words(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "none"
    return "none" if value is None else str(value)


def _call_text(question: Question) -> str:
    name = question.tool if question.server is None else f"{question.server}/{question.tool}"
    return name if question.action == "tool" else f"{question.action} {name}"
