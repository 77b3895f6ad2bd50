"""The functions of the release-notes workflow. Plain Python: nothing of Omium is imported.

`ctx`, where a function asks for it, is its run: the workspace, and the ledger that effects on the outside go through.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

_KINDS = {"feat": "New", "fix": "Fixed", "perf": "Faster", "docs": "Documentation"}


def classify(ctx: Any, line: str, outbox: str) -> dict[str, str]:
    """One commit, sorted into its section. The pause stands for a model's call; the ledger keeps its answer, so that it
    is paid for once."""
    short, author, subject = line.split("\t", 2)

    def ask_the_model() -> dict[str, str]:
        time.sleep(0.15)
        _append(Path(outbox) / "calls.jsonl", {"call": "classify", "commit": short})
        prefix, _, rest = subject.partition(": ")
        return {"section": _KINDS.get(prefix, "Other"), "text": rest or subject}

    answer = ctx.effect(f"classify {short}", ask_the_model)
    return {"commit": short, "author": author, **answer}


def draft(ctx: Any, changes: list[dict[str, str]], version: str, tone: str) -> dict[str, Any]:
    """Release notes in Markdown, in the workspace and as a value."""
    hello = f"# Version {version}\n" if tone == "plain" else f"# Say hello to {version}!\n\nThank you for being here.\n"
    parts = [hello]
    for section in (*_KINDS.values(), "Other"):
        lines = [f"- {one['text']} ({one['commit']})" for one in changes if one["section"] == section]
        if lines:
            parts += [f"\n## {section}\n", *(f"{line}\n" for line in lines)]
    text = "".join(parts)
    (ctx.workspace / "NOTES.md").write_text(text, encoding="utf-8")
    return {"text": text, "lines": text.count("\n")}


def publish(ctx: Any, text: str, version: str, outbox: str) -> dict[str, str]:
    """The page in the workspace, and an announcement to the outside: an effect, made once and on record."""
    site = ctx.workspace / "site"
    site.mkdir(exist_ok=True)
    page = site / f"{version}.html"
    page.write_text(f"<!doctype html><title>{version}</title><pre>{text}</pre>\n", encoding="utf-8")

    def announce() -> dict[str, str]:
        _append(Path(outbox) / "announcements.jsonl", {"version": version})
        return {"announced": version}

    answer = ctx.effect("announce", announce)
    return {"page": f"site/{version}.html", "announced": answer["announced"]}


def retract(ctx: Any, **effect: Any) -> dict[str, str]:
    """What a rollback behind `publish` does about the announcement."""
    given = effect.get("input") or {}
    _append(Path(given["outbox"]) / "announcements.jsonl", {"retracted": given["version"]})
    return {"retracted": given["version"]}


def _append(path: Path, record: dict[str, str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
