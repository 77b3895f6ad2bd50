"""An export as a PDF report for people: what was decided by whom, what was called, what happened, and the proof.

The fonts that every reader of PDF has know Western letters only; what they cannot show is written as its number, so
that no two texts look the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from omium.orchestration.errors import OmiumError
from omium.server.audit.records import Proof, Record

if TYPE_CHECKING:
    from fpdf import FPDF

MOST_EVENTS: Final = 2_000  # of one log; the rest is counted, and is in the other formats
_LONGEST: Final = 220


def pdf(found: Iterable[Record | Proof], title: str, made: str, keyed: bool) -> bytes:
    """made: when, for the title page. Raises `unsupported` when the library is not installed."""
    try:
        from fpdf import FPDF
    except ModuleNotFoundError as error:
        told = "this installation cannot write PDF."
        raise OmiumError(
            "unsupported", told, "Run: pip install 'omium-mcp[pdf]'. CSV and JSONL need nothing."
        ) from error
    document = FPDF(format="A4")
    document.set_title(_shown(title))
    document.set_creator("omium")
    document.set_auto_page_break(True, margin=15)
    document.add_page()
    _heading(document, title, 16)
    _text(document, f"Made {made}. Times are UTC. Contents are not in the log, which holds their digests.")
    events: list[Record] = []
    count = 0
    proofs: list[Proof] = []
    for one in found:
        if isinstance(one, Record):
            count += 1
            if len(events) < MOST_EVENTS:
                events.append(one)
            continue
        _log(document, one, events, count)
        proofs.append(one)
        events, count = [], 0
    _proofs(document, proofs, keyed)
    return bytes(document.output())


def _log(document: FPDF, proof: Proof, events: Sequence[Record], count: int) -> None:
    _heading(document, proof.log, 12)
    created = next((one.value() for one in events if one.type == "run.created"), None)
    if isinstance(created, dict):
        owner = created.get("owner") or events[0].actor
        _text(document, f"Workflow {created.get('workflow')}, started by {owner}: {created.get('title') or 'no title'}")
    decisions = [one for one in events if one.type == "approval.decided"]
    if decisions:
        _table(
            document, ("Decided", "By", "Decision", "Assurance", "Feedback"), (34, 40, 26, 30, 60),
            [(one.time[:19], *_of(one.value(), "by", "decision", "assurance", "feedback")) for one in decisions],
        )  # fmt: skip
    calls = [one for one in events if one.type == "effect.intended"]
    if calls:
        _table(
            document, ("Called", "Node", "Kind", "Call"), (34, 50, 30, 76),
            [(one.time[:19], *_of(one.value(), "node", "kind", "call")) for one in calls],
        )  # fmt: skip
    _table(
        document, ("Seq", "Time", "Event", "Actor", "Hash"), (12, 34, 50, 46, 48),
        [(str(one.seq), one.time[:19], one.type, one.actor, one.hash[:16]) for one in events],
    )  # fmt: skip
    if count > len(events):
        _text(document, f"And {count - len(events)} more events, which the CSV and JSONL of this export hold.")


def _proofs(document: FPDF, proofs: Sequence[Proof], keyed: bool) -> None:
    _heading(document, "Proof", 12)
    how = "HMAC-SHA-256 with the operator's key" if keyed else "SHA-256"
    _text(
        document,
        f"Each event's hash is {how} over the hash before it and the event. A log's head therefore stands for all of "
        "it: whoever keeps the head elsewhere can show that nothing was changed, left out or cut off.",
    )
    for proof in proofs:
        state = "holds" if proof.holds else f"DOES NOT HOLD ({len(proof.problems)} places)"
        _text(document, f"{proof.log}: {proof.events} events, the chain {state}.\nHead {proof.head}")
        for problem in proof.problems[:20]:
            _text(document, problem)


def _of(value: Any, *names: str) -> tuple[str, ...]:
    found = value if isinstance(value, dict) else {}
    return tuple(str(found.get(name) or "") for name in names)


def _heading(document: FPDF, text: str, size: int) -> None:
    document.set_font("Helvetica", "B", size)
    document.ln(4)
    document.multi_cell(0, size / 2, _shown(text), new_x="LMARGIN", new_y="NEXT")


def _text(document: FPDF, text: str) -> None:
    document.set_font("Helvetica", "", 9)
    document.multi_cell(0, 4.5, _shown(text), new_x="LMARGIN", new_y="NEXT")


def _table(document: FPDF, head: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[str]]) -> None:
    document.ln(2)
    document.set_font("Helvetica", "", 7)
    with document.table(col_widths=tuple(widths), line_height=4, first_row_as_headings=True) as table:
        for row in (head, *rows):
            table.row([_shown(cell) for cell in row])


def _shown(text: str) -> str:
    """What the fonts show; control characters and what they do not know as numbers; long texts cut."""
    cut = text if len(text) <= _LONGEST or "\n" in text or len(text) < 2 * _LONGEST else text[:_LONGEST] + "..."
    plain = "".join(one if one == "\n" or one.isprintable() else ascii(one)[1:-1] for one in cut)
    return plain.encode("latin-1", "backslashreplace").decode("latin-1")
