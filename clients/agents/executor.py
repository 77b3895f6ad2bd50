"""The executor of nodes of kind `agent`: finds the agent and its framework, restores, runs, passes the work on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, Final

import anyio

from omium.clients.agents.adapter import Adapter, Outcome, Task
from omium.clients.agents.kept import Kept, unreadable
from omium.clients.agents.prompting import news, rendered
from omium.clients.agents.secrets import Secrets
from omium.clients.agents.session import Session
from omium.clients.agents.spec import AgentDef, versioned
from omium.clients.agents.stored import agents_of
from omium.clients.agents.toolbox import Describe, Functions, fill, is_external
from omium.orchestration.definition.json_schema import value_problems
from omium.orchestration.engine.failures import TRANSIENT, classify, type_names
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.orchestration.ports import Attempt, Done
from omium.orchestration.ports_calls import Suspended, Tools
from omium.orchestration.values import Value

_log = logging.getLogger(__name__)

Pins = Callable[[Sequence[str]], Mapping[str, str]]
"""The pins of the external tools that match patterns: a change of one makes another agent of it."""

# A class that stands for each category, for the classifier of failures, which goes by the names of classes.
_CLASS_OF: Final[Mapping[str, str]] = {
    "file_not_found": "builtins.FileNotFoundError",
    "api_error": "openai.APIError",
    "timeout": "builtins.TimeoutError",
    "import_error": "builtins.ImportError",
    "type_error": "builtins.TypeError",
    "value_error": "builtins.ValueError",
    "key_error": "builtins.KeyError",
    "attribute_error": "builtins.AttributeError",
    "index_error": "builtins.IndexError",
    "permission_error": "builtins.PermissionError",
    "connection_error": "builtins.ConnectionError",
    "memory_error": "builtins.MemoryError",
    "rate_limited": "openai.RateLimitError",
    "validation": "builtins.AssertionError",
}
_REASON: Final = "model_call"
_MOST_KEPT: Final = 64


class AgentExecutor:
    """Runs registered agents, each on the framework that its definition names.

    agents: by name and by `name@version`; where they may change, what gives the present ones. adapters: by framework.
    functions and describe: what runs the functions that agents call, and tells their schemas; external: the tools of
    other servers; pins: their definitions, for the digest.
    """

    def __init__(
        self,
        agents: Mapping[str, AgentDef] | Callable[[], Mapping[str, AgentDef]],
        adapters: Mapping[str, Adapter],
        *,
        functions: Functions | None = None,
        describe: Describe | None = None,
        external: Tools | None = None,
        pins: Pins | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self._present = agents if callable(agents) else lambda: agents
        self._kept: OrderedDict[Digest, AgentExecutor] = OrderedDict()  # by what runs keep
        self._adapters = adapters
        self._functions = functions
        self._describe = describe
        self._external = external
        self._pins = pins
        self._secrets = secrets or Secrets()

    # --- the agents that a run keeps --------------------------------------------------------------------------------

    @property
    def _agents(self) -> Mapping[str, AgentDef]:
        return self._present()

    def known(self, agents: Digest) -> AgentExecutor | None:
        """See `ports_agents.KeepsAgents`."""
        found = self._kept.get(agents)
        if found is not None:
            self._kept.move_to_end(agents)
        return found

    def keeping(self, agents: Digest, document: Any) -> AgentExecutor:
        """See `ports_agents.KeepsAgents`."""
        found = copy(self)
        held = agents_of(document)
        found._present = lambda: held
        self._kept[agents] = found
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return found

    def named(self, use: str) -> str:
        """See `ports_agents.NamesAgents`."""
        agent = self._agent(use)
        return versioned(agent.name, agent.version)

    # ----------------------------------------------------------------------------------------------------------------

    def digest(self, use: str) -> str:
        """Changes when the agent, one that it may hand over to, a tool of theirs or their framework does. Raises
        `not_registered`, and `unsupported` for a framework that is not installed."""
        told: list[str] = []
        seen: set[str] = set()
        open_ = [use]
        while open_:
            name = open_.pop()
            if name in seen:
                continue
            seen.add(name)
            agent = self._agent(name)
            told += [agent.digest(), agent.framework, self._adapter(agent).version()]
            if self._functions is not None:
                told += [self._functions.digest(tool) for tool in agent.tools if not is_external(tool)]
            patterns = [tool for tool in agent.tools if is_external(tool)]
            if patterns and self._pins is not None:
                told += [f"{tool}={pin}" for tool, pin in sorted(self._pins(patterns).items())]
            open_ += reversed(agent.handoffs)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        """One attempt: from where the last one of this generation was, if there was one."""
        first = self._agent(use)
        kept = Kept.of(await attempt.kept())
        if kept is None or (first.on_retry == "restart" and not attempt.resumed and kept.attempt < attempt.attempt):
            used = kept.usage if kept is not None else None
            kept = Kept(use, inputs)
            if used is not None:
                kept.usage = used  # what a conversation that is given up has cost counts all the same
        _check_input(self._agent(kept.agent), kept.input)
        seconds = first.limits.seconds
        with anyio.move_on_after(seconds if seconds is not None else float("inf")) as scope:
            return await self._through(first, kept, attempt)
        assert scope.cancelled_caught
        raise OmiumError(
            "timeout", f"the agent {first.name} was stopped after {seconds:g} s.", "Raise limits.seconds of the agent."
        )

    async def _through(self, first: AgentDef, kept: Kept, attempt: Attempt) -> Done:
        """Run the agent that has the work, and whoever it passes it to, until one of them is done."""
        fresh = False  # whether the agent got the work in this attempt: then it has missed nothing
        while True:
            agent = self._agent(kept.agent)
            adapter = self._adapter(agent)
            session = await self._session(agent, adapter, first, kept, attempt, fresh)
            outcome = await self._run(adapter, Task(*rendered(agent, kept.input, attempt)), session)
            if outcome.kind == "ok":
                usage = {**kept.usage.as_dict(), "agent": versioned(first.name, first.version)}
                return Done(self._secrets.scrub_value(outcome.output), usage)
            assert outcome.kind == "handed_over"
            fresh = True

    async def _session(
        self, agent: AgentDef, adapter: Adapter, first: AgentDef, kept: Kept, attempt: Attempt, fresh: bool
    ) -> Session:
        state = kept.conversation
        if state is not None and (state.framework != adapter.framework or state.format not in adapter.formats):
            raise unreadable(
                f"it is of {state.framework} {state.version} in the form {state.format}, and the agent "
                f"{agent.name} now runs on {adapter.framework} {adapter.version()}"
            )
        toolbox = await fill(
            agent,
            self._agents,
            functions=self._functions,
            describe=self._describe,
            external=self._external,
            attempt=attempt,
        )
        return Session(
            agent,
            self._agents,
            toolbox,
            attempt,
            kept,
            limits=first.limits,
            secrets=self._secrets,
            identity=(adapter.framework, adapter.version(), max(adapter.formats)),
            functions=self._functions,
            external=self._external,
            news=partial(self._news, kept, attempt, kept.attempt, fresh),
        )

    def _news(self, kept: Kept, attempt: Attempt, before: int, fresh: bool) -> str:
        """What happened since the conversation was kept, and is told once; an agent that got the work just now has
        missed nothing."""
        if fresh:
            return ""
        failed = not attempt.resumed and attempt.attempt > 1 and before < attempt.attempt
        last = attempt.guidance.failures[-1] if attempt.guidance.failures else {}
        # A conversation that goes on is not told of a provider that did not answer: it has nothing to do with it.
        only_the_provider = last.get("reason") == _REASON and last.get("category") in TRANSIENT
        worth_it = failed and not (kept.conversation is not None and only_the_provider)
        told, said = news(attempt.guidance, failures=worth_it, told=kept.told)
        kept.told += said
        return told

    async def _run(self, adapter: Adapter, task: Task, session: Session) -> Outcome:
        """Have the adapter run; give what it ended with if it is a result, raise what it is otherwise."""
        await session.ask_for_model()
        try:
            outcome = await adapter.run(task, session)
        except Suspended:
            raise
        except anyio.get_cancelled_exc_class():
            session.stopped = True
            raise
        except Exception as error:  # the boundary between Omium and a framework that it does not know
            if session.suspended is not None:
                raise session.suspended from error
            raise self._failure(error, None, session) from error
        if session.suspended is not None or outcome.kind == "suspended":
            raise session.suspended or Suspended()
        if outcome.kind in ("ok", "handed_over"):
            return outcome
        if outcome.kind == "cancelled":
            raise OmiumError("process_failed", f"the agent {session.agent.name} stopped by itself.", reason="cancelled")
        ended = outcome.error or OmiumError(
            "process_failed", f"the agent {session.agent.name} ended as {outcome.kind}.", reason=outcome.kind
        )
        raise self._failure(ended, outcome.category, session) from outcome.error

    def _failure(self, error: BaseException, category: str | None, session: Session) -> OmiumError:
        """The failure as the engine records it: classified, and without anything secret in it."""
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, OmiumError) and category is None and session.model_error is not error:
            return OmiumError(
                error.code,
                self._secrets.scrub(error.message),
                self._secrets.scrub(error.hint),
                **self._secrets.scrub_value(dict(error.data)),
            )
        found = category or status_category(error) or classify(error)
        said = str(error) or type(error).__name__
        if session.model_error is error and isinstance(error, json.JSONDecodeError):
            found, said = "api_error", f"what the provider sent is no JSON: {said}"
        message = self._secrets.scrub(said)[:4_000]
        data: dict[str, Any] = {"error_type": type_names(error)[0], "agent": session.agent.name}
        if found in _CLASS_OF:
            data["mro"] = [_CLASS_OF[found]]
        if session.model_error is error:
            data["reason"] = _REASON
        return OmiumError("process_failed", f"the agent {session.agent.name} failed: {message}", **data)

    def _agent(self, use: str) -> AgentDef:
        found = self._agents.get(use)
        if found is None:
            raise OmiumError("not_registered", f"the agent {use!r} is not registered.")
        return found

    def _adapter(self, agent: AgentDef) -> Adapter:
        found = self._adapters.get(agent.framework)
        if found is None:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise OmiumError(
                "unsupported",
                f"the framework {agent.framework!r} of the agent {agent.name} is not here.",
                f"Here: {known}.",
            )
        return found


def status_category(error: BaseException) -> str | None:
    """What the HTTP status of a provider's refusal means; None where there is none, or the type says it better."""
    status = getattr(error, "status_code", None)
    return category_of_status(status) if isinstance(status, int) else None


def category_of_status(status: int) -> str | None:
    """What an HTTP status means; None for one that is no refusal."""
    if status in (401, 403):
        return "permission_error"
    if status == 429:
        return "rate_limited"
    if status == 408:
        return "timeout"
    if status in (400, 404, 413, 422):
        return "validation"  # the same request would be refused again
    return "api_error" if status >= 400 else None


def _check_input(agent: AgentDef, inputs: Value) -> None:
    if agent.input_schema is None:
        return
    problems = value_problems(agent.input_schema, inputs)
    if problems:
        raise OmiumError(
            "invalid_argument",
            f"the input of the agent {agent.name} does not fit its schema: {problems[0]}",
            problems=[str(problem) for problem in problems[:20]],
        )
