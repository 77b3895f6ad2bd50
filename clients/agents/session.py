"""What an adapter talks to while it runs one agent: calls under the ledger, questions to people, limits, state."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import anyio
import orjson

from omium.clients.agents.adapter import Emission, ModelCall, Offer, State, ToolAnswer
from omium.clients.agents.kept import Kept
from omium.clients.agents.metering import check_limits, cost_usd, estimate
from omium.clients.agents.prompting import human_said
from omium.clients.agents.scoped import ScopedAttempt
from omium.clients.agents.secrets import Secrets
from omium.clients.agents.spec import AgentDef, AgentLimits, ModelSpec
from omium.clients.agents.toolbox import Functions, Tool, Toolbox, names
from omium.orchestration.definition.json_schema import value_problems
from omium.orchestration.definition.names import label_problem
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Attempt
from omium.orchestration.ports_calls import Allowed, Call, Reservation, Suspended, Tools
from omium.orchestration.values import Value, digest_of

_log = logging.getLogger(__name__)

EMIT_EVERY_S: Final = 1.0
_SHOWN: Final = 400
_ERROR_SHOWN: Final = 2_000

# What ends the attempt rather than being told to the agent: it is no longer ours, must stop, or cannot be recorded.
_ENDING: Final = frozenset({"budget_exceeded", "storage_unavailable", "fenced", "integrity", "internal", "not_allowed"})

# A person who chooses one of these ends the node; an agent that offers them as answers means something else.
_RESERVED: Final = frozenset({"reject", "abort", "skip", "expired", "cancelled"})


class Session:
    """See `adapter.AgentContext`. One for each agent that the work passes through in one attempt."""

    def __init__(
        self,
        agent: AgentDef,
        agents: Mapping[str, AgentDef],
        toolbox: Toolbox,
        attempt: Attempt,
        kept: Kept,
        *,
        limits: AgentLimits,
        secrets: Secrets,
        identity: tuple[str, str, int],
        functions: Functions | None,
        external: Tools | None,
        news: Callable[[], str],
    ) -> None:
        self.agent = agent
        self.attempt = attempt.attempt
        self.offers: Sequence[Offer] = toolbox.offers
        self.restored: State | None = kept.conversation
        self.suspended: Suspended | None = None
        self.passed_to: tuple[str, Value] | None = None
        self.model_error: BaseException | None = None
        self.stopped = False
        self._agents = agents
        self._toolbox = toolbox
        self._attempt = attempt
        self._kept = kept
        self._limits = limits
        self._secrets = secrets
        self._identity = identity  # framework, version, format
        self._functions = functions
        self._external = external
        self._news = news
        self._prefix = f"h{len(kept.passed)}/" if kept.passed else ""
        self._saving = anyio.Lock()
        self._last_emitted = float("-inf")
        self._tail = ""

    @property
    def cancelled(self) -> bool:
        return self.stopped

    @property
    def output_schema(self) -> Mapping[str, Any] | None:
        return self.agent.output_schema

    def news(self) -> str:
        return self._secrets.scrub(self._news())

    def secret(self, name: str) -> str | None:
        return self._secrets.get(name)

    # --- what is shown ----------------------------------------------------------------------------------------------

    async def emit(self, kind: Emission, text: str) -> None:
        self._tail = (self._tail + text)[-_SHOWN:] if kind == "text" else text[:_SHOWN]
        now = anyio.current_time()
        if now - self._last_emitted < EMIT_EVERY_S:
            return
        self._last_emitted = now
        shown = " ".join(self._secrets.scrub(self._tail).split())
        if not shown:
            return
        try:
            await self._attempt.ask("progress", {"text": f"{self.agent.name}: {shown}"})
        except OmiumError as error:  # the node is no longer ours, or the database is away: the engine deals with that
            _log.info("progress of %s is not noted: %s", self._attempt.node_id, error)

    # --- what is kept -----------------------------------------------------------------------------------------------

    async def checkpoint(self, blob: Value) -> None:
        framework, version, form = self._identity
        self._kept.conversation = State(framework, version, form, blob)
        self._kept.answers.clear()
        await self._save()

    async def _save(self) -> None:
        async with self._saving:
            self._kept.attempt = self._attempt.attempt
            await self._attempt.keep(self._secrets.scrub_value(self._kept.as_value()))

    def lease(self, name: str) -> AbstractAsyncContextManager[None]:
        return self._attempt.leased(name)

    # --- tools ------------------------------------------------------------------------------------------------------

    async def call_tools(self, calls: Sequence[tuple[str, Any, str]]) -> list[ToolAnswer]:
        if len(calls) == 1:
            return [await self.call_tool(*calls[0])]
        answers: list[ToolAnswer | None] = [None] * len(calls)
        stopping: list[Suspended | Exception] = []

        async def one(place: int) -> None:
            try:
                answers[place] = await self.call_tool(*calls[place])
            except (Suspended, Exception) as error:  # the others are under way: they come to their own ends first
                stopping.append(error)

        async with anyio.create_task_group() as tasks:
            for place in range(len(calls)):
                tasks.start_soon(one, place)
        if stopping:
            failures = [error for error in stopping if not isinstance(error, Suspended)]
            raise failures[0] if failures else stopping[0]
        return [answer for answer in answers if answer is not None]

    async def call_tool(self, name: str, arguments: Any, call_id: str) -> ToolAnswer:
        known = self._kept.answers.get(self._prefix + call_id)
        if known is None:
            answer = await self._answer(name, self._secrets.scrub_value(arguments), call_id)
            known = {"text": answer.text, "failed": answer.failed, "final": answer.final}
            self._kept.answers[self._prefix + call_id] = known
            if not answer.final:  # passing the work on keeps what is needed by itself
                await self._save()
        return ToolAnswer(known["text"], known["failed"], known["final"])

    async def _answer(self, name: str, arguments: Any, call_id: str) -> ToolAnswer:
        tool = self._toolbox.tools.get(name)
        if tool is None:
            return _refused(f"there is no tool {name[:100]!r}. Tools: {names(self.offers)}.")
        if self.passed_to is not None:
            return _refused("the work has been passed on already; nothing more is called.")
        wrong = _problems(tool, arguments)
        if wrong:
            return _refused(f"the arguments do not fit the schema of {name}: {wrong}")
        key = f"{self._prefix}{call_id}:{name}:{digest_of(arguments)[:12]}"
        await self.emit("tool", f"calls {name}")
        try:
            if tool.kind == "human":
                return ToolAnswer(await self.human(arguments["question"], call_id, arguments.get("options") or ()))
            if tool.kind == "handoff":
                return await self._hand_over(tool.name, arguments, key)
            result = await self._made(tool, arguments, key)
        except Suspended as suspended:
            self.suspended = suspended
            raise
        except OmiumError as error:
            if error.code in _ENDING:
                raise
            return _refused(self._told(error))
        except Exception as error:  # a tool's own failure, of any kind, is the agent's to deal with
            _log.info("the tool %s of %s failed", tool.name, self._attempt.node_id, exc_info=True)
            return _refused(self._secrets.scrub(f"{type(error).__name__}: {error}"[:_ERROR_SHOWN]))
        return ToolAnswer(self._shown(result))

    async def _made(self, tool: Tool, arguments: dict[str, Any], key: str) -> Value:
        if tool.kind == "external":
            assert self._external is not None
            return await self._external.call(tool.name, arguments, self._attempt, key=key, agent=self.agent.name)
        functions = self._functions
        assert functions is not None

        async def action(allowed: Allowed) -> Value:
            inside = ScopedAttempt(self._attempt, f"{key}/")
            done = await functions.run(tool.name, allowed.arguments, inside)
            return self._secrets.scrub_value(done.output)  # type: ignore[no-any-return]

        # `tool` is what policy calls the tools of others; a function is what the operator registered, as a command is.
        call = Call(key, "command", tool.name, arguments, pin=tool.pin, agent=self.agent.name)
        return await self._attempt.call(call, action, kind="function")

    def _told(self, error: OmiumError) -> str:
        message = error.message
        if error.code == "denied":
            reason = error.data.get("reason") or error.data.get("rule") or ""
            message = f"this call is not allowed here: {reason or message}"
        hint = f" {error.hint}" if error.hint else ""
        return self._secrets.scrub(f"{error.code}: {message}{hint}"[:_ERROR_SHOWN])

    def _shown(self, value: Value) -> str:
        text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
        text, limit = self._secrets.scrub(text), self._limits.output_chars
        return text if len(text) <= limit else f"{text[:limit]}\n[cut: {len(text) - limit} more characters]"

    async def _hand_over(self, name: str, payload: Any, key: str) -> ToolAnswer:
        """The receiver's schema has accepted the payload; that is recorded before anything of the receiver's starts."""
        if len(self._kept.passed) >= self._limits.handoffs:
            return _refused(f"the work was passed on {len(self._kept.passed)} times; finish it yourself.")
        to = self._agents[name]
        digest = digest_of(payload)
        about = {"from": self.agent.name, "to": to.name, "version": to.version, "payload": digest}

        async def acknowledge() -> Value:
            return {"accepted": True, **about}

        await self._attempt.effect(key, acknowledge, kind="handoff", on_unknown="rerun", detail=about)
        self._kept.passed.append(about)
        self._kept.agent, self._kept.input, self._kept.conversation = name, payload, None
        self._kept.answers.clear()
        await self._save()
        self.passed_to = (name, payload)
        return ToolAnswer(f"{to.name} has accepted the work.", final=True)

    async def human(self, question: str, call_id: str, options: Sequence[str] = ()) -> str:
        chosen = _options(options)
        try:
            decided = await self._attempt.decide(
                self._secrets.scrub(question),
                chosen,
                key=f"{self._prefix}{call_id}:human",
                details={"agent": self.agent.name, "free_text": True},
            )
        except Suspended as suspended:
            self.suspended = suspended
            raise
        said = decided.feedback or ""
        if said:
            self._kept.told.append(said)
        if decided.decision == "answer":
            return human_said(said) if said else "The person gave no answer; go on as you think best."
        return human_said(f"{decided.decision}: {said}" if said else decided.decision)

    async def ask_for_model(self) -> None:
        """Leave to use the agent's model, once for a generation of the node: what is sent to it, nobody reads first.
        Raises `denied`, and `Suspended` where policy has a person decide."""
        model = self.agent.model
        if model is not None and model.provider != "scripted":  # which answers from a file of the project's
            about: dict[str, Value] = {"provider": model.provider, "base_url": model.base_url}
            name = model.name or model.provider
            await self._attempt.gate(Call(f"{self._prefix}model", "model", name, about, agent=self.agent.name))

    # --- models -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def model_call(self, prompt_chars: int) -> AsyncIterator[ModelCall]:
        model = self.agent.model or ModelSpec("")
        tokens, usd = estimate(model, prompt_chars)
        check_limits(self._limits, self._kept.usage, tokens, usd)
        reserved = await self._attempt.reserve(f"model {model.name or model.provider}", tokens=tokens, usd=usd)
        call = _Call()
        try:
            yield call
        except Exception as error:
            self.model_error, call.failed = error, True
            raise
        finally:
            with anyio.CancelScope(shield=True):  # what was used was used
                await self._settle(model, call, reserved)

    async def _settle(self, model: ModelSpec, call: _Call, reserved: Reservation) -> None:
        paid: float | None = 0.0 if call.failed else None  # an answer without figures: nobody knows what it cost
        if call.known:
            paid = cost_usd(
                model, call.input_tokens, call.output_tokens, cached_tokens=call.cached_tokens, called=call.model
            )
        name = call.model or model.name or model.provider
        if not call.failed:
            self._kept.usage.add(call.input_tokens, call.output_tokens, paid, name)
        await reserved.settle(tokens=call.input_tokens + call.output_tokens, usd=paid, calls=1, model=name)

    # --- the result -------------------------------------------------------------------------------------------------

    def check_output(self, text: str | None) -> tuple[Value, str]:
        text = self._secrets.scrub(text or "")
        schema = self.agent.output_schema
        if schema is None or schema.get("type") == "string":
            problems = value_problems(schema, text) if schema is not None else []
            return text, "; ".join(map(str, problems[:5]))
        try:
            value = orjson.loads(_unfenced(text))
        except orjson.JSONDecodeError as error:
            return None, f"the answer is not JSON: {error}"
        return value, "; ".join(map(str, value_problems(schema, value)[:5]))


class _Call:
    """See `adapter.ModelCall`."""

    __slots__ = ("cached_tokens", "failed", "input_tokens", "known", "model", "output_tokens")

    def __init__(self) -> None:
        self.known = False
        self.failed = False
        self.input_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.model: str | None = None

    def used(self, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0, model: str | None = None) -> None:
        self.known = True
        self.input_tokens, self.output_tokens = max(0, input_tokens), max(0, output_tokens)
        self.cached_tokens, self.model = max(0, cached_tokens), model


def _refused(text: str) -> ToolAnswer:
    return ToolAnswer(f"error: {text}", failed=True)


def _options(given: Sequence[str]) -> tuple[str, ...]:
    """What a person can choose; without any, an answer in words."""
    plain = [" ".join(str(one).split()) for one in given]
    told = [f"answer: {one}" if one.casefold() in _RESERVED else one for one in plain]
    return tuple(dict.fromkeys(one for one in told if not label_problem(one)))[:10] or ("answer",)


def _problems(tool: Tool, arguments: Any) -> str:
    if not isinstance(arguments, dict):
        return "they are no JSON object"
    return "; ".join(map(str, value_problems(tool.offer.parameters, arguments)[:5]))


def _unfenced(text: str) -> str:
    """JSON without the fence that models like to put around it."""
    plain = text.strip()
    if plain.startswith("```") and plain.endswith("```") and "\n" in plain:
        return plain[plain.index("\n") + 1 : -3]
    return plain
