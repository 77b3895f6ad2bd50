"""Conversations of coding CLIs: what is kept of one while a node works, and what it is told when it goes on.

A conversation belongs to a directory. Each generation of a node has its own: one that goes on from an earlier node's is
a copy, so a rollback or a branch finds the earlier one as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, NoReturn

from omium.clients.coding.events import Tokens, count_of
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value, digest_of

FORMAT: Final = 1
MAX_PROMPT: Final = 1_000_000  # characters
_SAID: Final = 4_000
_SESSION: Final = re.compile(r"\A[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class SessionRef:
    """A conversation that has ended, as the output of its node names it. said: its last words, for when it is lost;
    used: what it has taken by then, where its CLI counts on from there."""

    id: str
    agent: str
    cwd: str
    said: str = ""
    used: Tokens = field(default_factory=Tokens)


@dataclass(frozen=True, slots=True)
class Task:
    """What a node asks for: a prompt, and a conversation to go on from."""

    prompt: str
    session: SessionRef | None


def task_of(inputs: Value) -> Task:
    """The input of a node, checked. Raises OmiumError("invalid_argument")."""
    given = {"prompt": inputs} if isinstance(inputs, str) else inputs
    if not isinstance(given, dict) or not isinstance(given.get("prompt"), str):
        _refuse("a coding CLI needs an input with the text `prompt`.")
    if unknown := sorted(set(given) - {"prompt", "session"}):
        _refuse(f"a coding CLI takes `prompt` and `session`, not {unknown[0]!r}.")
    prompt = str(given["prompt"])
    if not prompt.strip():
        _refuse("the prompt is empty.")
    if len(prompt) > MAX_PROMPT:
        _refuse(f"the prompt has {len(prompt)} characters, more than {MAX_PROMPT}.")
    if found := _CONTROL.search(prompt):
        _refuse(f"the prompt holds the control character {found[0]!r}.")
    return Task(prompt, _session(given.get("session")))


def _session(value: Value) -> SessionRef | None:
    if value is None:
        return None
    if isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("id", "agent", "cwd")):
        identity = str(value["id"])
        if is_session(identity):
            said = value.get("said")
            said = said if isinstance(said, str) else ""
            return SessionRef(identity, str(value["agent"]), str(value["cwd"]), said, tokens_of(value.get("used")))
    _refuse("`session` is not what an earlier node of a coding CLI gave as its output's `session`.")


def tokens_of(value: object) -> Tokens:
    """Counts by the names of `Tokens`; what is no count is none."""
    given = value if isinstance(value, dict) else {}
    return Tokens(**{one.name: count_of(given.get(one.name)) for one in fields(Tokens)})


def is_session(text: str) -> bool:
    """Whether this can be the id of a conversation; nothing else is ever put into an argument vector."""
    return _SESSION.match(text) is not None


def _refuse(why: str) -> NoReturn:
    raise OmiumError("invalid_argument", why, "with: {prompt: ..., session: ${{ nodes.<earlier>.output.session }}}")


# --- what is kept -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """A tool call that was put to the gate and has no answer. call: what it was, shortened and without our secrets;
    left_open: the CLI itself makes it again when it goes on."""

    use: str
    call: str
    left_open: bool = False


@dataclass(slots=True)
class Kept:
    """The state of a node's work, durable. session: the conversation's id; begun: whether the CLI has taken it up;
    token: the marker of its processes; head: the commit at the start; answered: how often each call was decided about;
    denied: what was refused; outcome: the node's output, once the CLI is done; spent: see `usage.Meter.spent`;
    used: see `SessionRef`; before: of `spent`, what was taken before this conversation, by one that was lost; follows:
    the conversation that it was copied from, or takes the place of."""

    kind: str
    agent: str
    cwd: str
    session: str
    token: str
    begun: bool = False
    head: str | None = None
    answered: dict[str, int] = field(default_factory=dict)
    denied: list[dict[str, Any]] = field(default_factory=list)
    waiting: Waiting | None = None
    said: str = ""
    outcome: dict[str, Any] | None = None
    spent: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    follows: str | None = None

    def as_value(self) -> dict[str, Any]:
        """What `keep` is given."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        told["waiting"] = None if self.waiting is None else asdict(self.waiting)
        return {"format": FORMAT, **told}

    @classmethod
    def of(cls, value: Value) -> Kept | None:
        """What was kept. Raises OmiumError("unsupported") for a form that this version does not know."""
        if value is None:
            return None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise OmiumError(
                "unsupported",
                "the state of the work was kept by another version of Omium.",
                "Play the node again from its start.",
            )
        told: dict[str, Any] = {name: item for name, item in value.items() if name != "format"}
        waiting = told.pop("waiting")
        return cls(**told, waiting=None if waiting is None else Waiting(**waiting))

    def key_of(self, tool: str, arguments: Mapping[str, Any]) -> str:
        """The call's name: the same when the CLI asks again after a restart, which it does under a new id; another one
        when it makes the same call once more after it was answered."""
        digest = digest_of({"tool": tool, "arguments": dict(arguments)})
        return f"n:{digest}:{self.answered.get(digest, 0) + 1}"

    def was_answered(self, key: str) -> None:
        """The CLI gets its answer now; the same call is another one from here on."""
        _, digest, ordinal = key.split(":")
        self.answered[digest] = int(ordinal)
        self.waiting = None

    def heard(self, text: str) -> None:
        """Remember the last words of the model."""
        if text.strip():
            self.said = text[-_SAID:]

    @property
    def ref(self) -> SessionRef:
        return SessionRef(self.session, self.agent, self.cwd, self.said)


# --- what it is told when it goes on ------------------------------------------------------------------------------


def again(failures: Sequence[Mapping[str, Any]], feedback: Sequence[str], *, interrupted: bool) -> str:
    """What a conversation is told that goes on after it was interrupted or has failed."""
    lines: list[str] = []
    if interrupted:
        lines.append(
            "The work was interrupted and goes on now. The files are as you left them. A tool call whose result you "
            "did not get may have happened: look before you make it again."
        )
    elif failures:
        lines.append(f"The last try failed: {str(failures[-1].get('message', 'no reason is known'))[:2_000]}")
    if feedback:
        lines += ["A person said:", *(f"> {text[:2_000]}" for text in feedback)]
    lines.append("Go on with the task until it is done.")
    return "\n".join(lines)


def undecided(waiting: Waiting) -> str:
    """What a conversation is told about a call that it was stopped at, and that it does not make again by itself."""
    return (
        f"A person had to decide about your call {waiting.call}, and the work stopped for that. Make the call again, "
        "exactly as it was: it is carried out if it was approved, and otherwise you are told why not."
    )


def anew(task: str, said: str) -> str:
    """The task for a new conversation, when the one that it belongs to is lost."""
    lines = [
        "This goes on from an earlier conversation that is lost. The files are as it left them: look at them first.",
    ]
    if said.strip():
        lines += ["Its last words were:", *(f"> {line}" for line in said.strip().splitlines())]
    return "\n".join([*lines, "", "The task:", "", task])


def retold(task: str, failures: Sequence[Mapping[str, Any]], feedback: Sequence[str]) -> str:
    """The task for a first conversation, with what is known of tries before it."""
    if not failures and not feedback:
        return task
    return f"{task}\n\n{again(failures, feedback, interrupted=False)}"
