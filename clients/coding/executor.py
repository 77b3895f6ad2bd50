"""The executor of coding CLIs: how an attempt of such a node is run, stopped, and gone on with."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from omium.clients.coding import claude, codex, gemini, protocol, sessions
from omium.clients.coding.conversation import Conversation, Ended
from omium.clients.coding.desk import AttemptDesk
from omium.clients.coding.events import Event, Result, Tokens
from omium.clients.coding.failures import check_ended
from omium.clients.coding.register import Conversations, Entry, Share, Standing, config_directory
from omium.clients.coding.sessions import Kept, Task
from omium.clients.coding.spec import KEYS, CodingSpec
from omium.clients.coding.usage import Meter
from omium.clients.commands import tail_text
from omium.clients.external.redact import Redactor
from omium.clients.functions.code import stamp_of
from omium.clients.processes.credentials import Credentials, credentials_in
from omium.clients.processes.environment import declared
from omium.clients.processes.reconcile import kill_marked
from omium.clients.processes.stream import StreamName
from omium.clients.processes.supervisor import Command
from omium.clients.watched import Program, Supervision, Watched
from omium.clients.workspaces.commits import commits_since, head_of
from omium.clients.workspaces.configs import copy_configs
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import new_id
from omium.orchestration.ports import Attempt, Done
from omium.orchestration.ports_calls import Call, Suspended
from omium.orchestration.values import Value

_log = logging.getLogger(__name__)

_GRACE_S: Final = 2.0
# What Gemini and Codex say on standard error of a conversation that they cannot read, before anything has begun.
_UNREADABLE: Final = re.compile(
    r"^(?:Error resuming session\b|Error: .*\bthread/resume\b)|\b(?:no rollout found for|session not found)\b",
    re.I | re.M,
)
_TRIES: Final = 3  # a conversation that is lost, or was begun when nobody could note it, is begun anew


class CodingExecutor:
    """Runs registered coding CLIs. specs: by name; home: Omium's directory, below which CLIs with a key of their own
    keep their conversations; environment: where keys are looked up (os.environ); supervision: what is kept of their
    processes besides; project: whose conversations they are."""

    def __init__(
        self,
        specs: Mapping[str, CodingSpec],
        home: Path,
        *,
        environment: Mapping[str, str] | None = None,
        supervision: Supervision | None = None,
        project: str = "default",
    ) -> None:
        self._specs = specs
        self._project = project
        self._conversations = Conversations(home)
        self._supervision = supervision or Supervision()
        self._home = home
        self._environment = os.environ if environment is None else environment

    def digest(self, use: str) -> str:
        """Changes when the specification, the program or one of the operator's files does."""
        spec = self._spec(use)
        program = shutil.which(spec.program)
        named = (spec.mcp, spec.system_prompt, *(path for _, path in spec.configs))
        files = [path for path in named if path is not None]
        told = json.dumps(
            [
                *(
                    spec.kind,
                    spec.program,
                    spec.wrap,
                    spec.model,
                    spec.tools,
                    spec.permissions,
                    spec.sandbox,
                    spec.max_turns,
                ),
                *(spec.pass_env, sorted(spec.env.items()), [name for name, _ in spec.configs]),
                repr(stamp_of(Path(program))) if program else None,
                [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None for path in files],
            ]
        )
        return hashlib.sha256(told.encode()).hexdigest()

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        """Have the CLI do the task of `inputs`; `{result, session, turns, usage, commits, denied}`."""
        spec, task = self._spec(use), sessions.task_of(inputs)
        if attempt.workspace is None:
            raise OmiumError(
                "workspace",
                f"The coding CLI {use!r} works in the workspace, and this node has none.",
                "Declare `workspace: write` at the node.",
            )
        work = _Work(
            *(spec, task, attempt, attempt.workspace, self._home, self._key(spec), self._supervision),
            *(self._conversations, self._project),
        )
        return await work.run()

    def _spec(self, use: str) -> CodingSpec:
        spec = self._specs.get(use)
        if spec is None:
            raise OmiumError("not_registered", f"the coding CLI {use!r} is not registered.")
        return spec

    def _key(self, spec: CodingSpec) -> str | None:
        if spec.api_key_env is None:
            return None
        key = self._environment.get(spec.api_key_env)
        if not key:
            raise OmiumError(
                "unsupported",
                f"The coding CLI {spec.name!r} needs a key in the variable {spec.api_key_env}, which is not set.",
                "Set it in the environment in which Omium runs.",
            )
        return key


class _Work:
    """One attempt."""

    def __init__(
        self,
        spec: CodingSpec,
        task: Task,
        attempt: Attempt,
        workspace: Path,
        home: Path,
        key: str | None,
        supervision: Supervision,
        conversations: Conversations,
        project: str,
    ) -> None:
        self._spec = spec
        self._conversations = conversations
        self._project = project
        self._supervision = supervision
        self._task = task
        self._attempt = attempt
        self._workspace = workspace
        self._home = home
        self._key = key
        handed_on = declared(spec.pass_env, spec.env)
        secrets = [*credentials_in(handed_on), *([key] if key else [])]
        self._redactor = Redactor(secrets)
        self._credentials = Credentials(secrets)
        self._meter = Meter(spec, attempt)

    async def run(self) -> Done:
        before = Kept.of(await self._attempt.kept())
        if before is not None:
            if before.outcome is not None and self._attempt.resumed:
                return Done(before.outcome, before.outcome["usage"])  # it was done, and only its end was not written
            if self._supervision.reconciler is not None:
                await self._supervision.reconciler.end(self._attempt.run_id, self._attempt.node_id)
            if await kill_marked(before.token, grace_s=0):
                _log.warning("%s: a CLI of an earlier attempt was still there", self._attempt.node_id)
        kept = before or await self._fresh(uuid.uuid4())
        kept.token, kept.outcome = new_id("proc"), None
        self._meter.goes_on(kept.spent)
        async with self._attempt.leased(f"session:{kept.session}"):
            await self._attempt.keep(kept.as_value())
            self._note(kept)
            try:
                await self._meter.hold()
                result = await (self._controlled(kept) if self._spec.kind == "claude" else self._headless(kept))
                return await self._done(kept, result)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._note_spent(kept)
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await self._meter.settle()

    async def _note_spent(self, kept: Kept) -> None:
        """For the attempt that goes on from here: its output tells what all of them took."""
        kept.spent = self._meter.spent()
        self._note(kept)
        try:
            await self._attempt.keep(kept.as_value())
        except OmiumError as error:  # the node is no longer ours, or the database is away: the engine sees to that
            _log.info("what %s took is not noted: %s", self._attempt.node_id, error)

    async def _fresh(self, session: uuid.UUID) -> Kept:
        await anyio.to_thread.run_sync(copy_configs, self._spec.configs, self._workspace)
        head = await anyio.to_thread.run_sync(head_of, self._workspace)
        spec, wanted = self._spec, self._task.session
        follows = None if wanted is None else wanted.id
        return Kept(spec.kind, spec.name, str(self._workspace), str(session), "", head=head, follows=follows)

    async def _done(self, kept: Kept, result: Result) -> Done:
        self._meter_model(result)
        usage, kept.spent = self._meter.as_dict(), self._meter.spent()
        scratch = self._attempt.scratch
        commits = [] if scratch is None else await commits_since(self._workspace, kept.head, scratch / "tmp")
        kept.heard(self._redactor.text(result.text))
        kept.outcome = {
            "result": self._redactor.text(result.text),
            "session": {
                "id": kept.session,
                "agent": kept.agent,
                "cwd": kept.cwd,
                "said": kept.said,
                **({"used": kept.used} if kept.used else {}),
            },
            "turns": kept.spent["turns"],
            "usage": usage,
            "commits": [{"id": one.id, "subject": one.subject} for one in commits],
            "denied": kept.denied,
        }
        await self._attempt.keep(kept.as_value())
        self._note(kept, "ended")
        return Done(kept.outcome, usage)

    def _note(self, kept: Kept, standing: Standing = "open") -> None:
        """What the conversation took by now, for whoever looks at it; nothing before it has begun."""
        if not kept.begun:
            return
        attempt, spent = self._attempt, self._meter.spent()
        mine = {name: count - kept.before.get(name, 0) for name, count in spent.items()}
        turns, tokens = mine.pop("turns"), Tokens(**mine)
        cost = self._meter.price(tokens) if tokens.total else 0.0
        share = Share(attempt.run_id, attempt.node_id, attempt.generation, turns, tokens.total, cost)
        self._conversations.note(self._entry(kept.session, standing, kept.follows), share)

    def _entry(self, session: str, standing: Standing = "open", follows: str | None = None) -> Entry:
        now, spec = self._conversations.wall(), self._spec
        return Entry(
            *(session, self._project, spec.name, spec.kind, str(self._workspace), now, now, standing),
            follows=None if follows == session else follows,
        )

    def _meter_model(self, result: Result) -> None:
        self._meter.model = self._meter.model or result.model

    # --- Claude Code ----------------------------------------------------------------------------------------------

    async def _controlled(self, kept: Kept) -> Result:
        for _ in range(_TRIES):
            start, parent, prompt = self._how_to_start(kept)
            desk = AttemptDesk(self._spec, self._attempt, kept, self._meter, self._redactor)
            otherwise = protocol.user_message(self._again()) if prompt is None else None
            reading = None if self._key is None else claude.key_pipe(self._key)
            try:
                command = self._command(
                    kept,
                    claude.argv(self._spec, kept.session, start, parent),
                    claude.settings(self._config_directory()),
                    descriptor=reading,
                )
                opening = claude.opening(self._spec, prompt)
                ended = await self._converse(
                    desk, command, protocol.events_of, opening=opening, otherwise=otherwise, controlled=True
                )
            finally:
                if reading is not None:
                    os.close(reading)
            if desk.asks_a_person:
                await self._leave_open(kept, ended)
                raise Suspended
            if (is_lost := self._is_lost(ended)) or self._is_taken(ended):
                await self._begin_anew(kept, (parent or kept.session) if is_lost else None)
                continue
            return check_ended(self._spec, ended, self._redactor)
        raise OmiumError("process_failed", f"{self._spec.name} loses its conversations.", reason="session_lost")

    def _how_to_start(self, kept: Kept) -> tuple[claude.Start, str | None, str | None]:
        """(how, the conversation to copy, the prompt; None: it goes on by itself)."""
        guidance = self._attempt.guidance
        if not kept.begun:
            wanted = self._task.session
            told = sessions.retold(self._task.prompt, guidance.failures, guidance.feedback)
            if kept.said or (wanted is not None and not self._may_continue(wanted)):
                said = kept.said or (wanted.said if wanted is not None else "")
                return "new", None, sessions.anew(told, said)
            return ("new", None, told) if wanted is None else ("fork", wanted.id, told)
        if kept.waiting is None:
            return "resume", None, self._again()
        if kept.waiting.left_open:
            return "resume", None, None
        return "resume", None, sessions.undecided(kept.waiting)

    def _may_continue(self, wanted: sessions.SessionRef) -> bool:
        """A conversation is full of paths: in another directory it would go on with the files of another run."""
        known = self._conversations.get(wanted.id)
        over = known is not None and known.is_over(self._conversations.wall(), self._spec.session_ttl_s)
        return wanted.cwd == str(self._workspace) and wanted.agent == self._spec.name and not over

    def _again(self) -> str:
        guidance = self._attempt.guidance
        return sessions.again(guidance.failures, guidance.feedback, interrupted=self._attempt.resumed)

    async def _leave_open(self, kept: Kept, ended: Ended) -> None:
        """Note that the CLI makes the call again by itself, if it has let it stand so."""
        waiting = kept.waiting
        if waiting is not None and ended.result is not None and ended.result.deferred == waiting.use:
            kept.waiting = replace(waiting, left_open=True)
            await self._attempt.keep(kept.as_value())

    def _is_lost(self, ended: Ended) -> bool:
        if ended.result is not None:
            return ended.result.reason == "session_lost"
        failed_at_once = bool(ended.exit.code) and not ended.begun
        return failed_at_once and _UNREADABLE.search(tail_text(ended.exit.stderr)) is not None

    def _is_taken(self, ended: Ended) -> bool:
        """It began, and nobody could note that."""
        return ended.result is None and ended.exit.code == 1 and "is already in use" in tail_text(ended.exit.stderr)

    async def _begin_anew(self, kept: Kept, lost: str | None) -> None:
        """lost: the conversation that the CLI could not read."""
        wanted = self._task.session
        _log.warning("%s: the conversation %s is lost, another one begins", self._attempt.node_id, lost or kept.session)
        if lost is not None:
            self._conversations.corrupted(self._entry(lost))
            kept.follows = lost
        kept.before = self._meter.spent()
        if not kept.said:
            kept.said = wanted.said if wanted is not None and wanted.said else "(nothing is known of them)"
        kept.session, kept.begun, kept.waiting, kept.used = str(uuid.uuid4()), False, None, {}
        await self._attempt.keep(kept.as_value())

    def _config_directory(self) -> str | None:
        if self._key is None:
            return None
        directory = config_directory(self._home, self._spec.name)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(directory)

    # --- Codex and Gemini -----------------------------------------------------------------------------------------

    async def _headless(self, kept: Kept) -> Result:
        await self._leave_to_start()
        for _ in range(_TRIES):
            session = kept.session if kept.begun else None
            wanted = self._task.session
            guidance = self._attempt.guidance
            if session is None and wanted is not None and self._may_continue(wanted) and not kept.said:
                session = wanted.id
            if kept.begun:
                prompt = self._again()
            else:
                prompt = sessions.retold(self._task.prompt, guidance.failures, guidance.feedback)
                if session is None and (kept.said or wanted is not None):
                    prompt = sessions.anew(prompt, kept.said or (wanted.said if wanted is not None else ""))
            if self._spec.kind == "gemini":
                prompt = gemini.prompt_text(prompt)
            goes_on = wanted.used if wanted is not None and session == wanted.id else Tokens()
            used = sessions.tokens_of(kept.used) if kept.begun else goes_on
            stream = codex.CodexStream(used) if self._spec.kind == "codex" else gemini.GeminiStream()
            if self._spec.kind == "codex":
                kept.used = asdict(used)  # kept with the beginning: an attempt that is cut off counts on from there
            build = codex.argv if self._spec.kind == "codex" else gemini.argv
            desk = AttemptDesk(self._spec, self._attempt, kept, self._meter, self._redactor)
            extra = {} if self._key is None else {KEYS[self._spec.kind]: self._key}
            command = self._command(kept, build(self._spec, session), extra, stdin=prompt.encode())
            ended = await self._converse(desk, command, stream.events_of)
            if isinstance(stream, codex.CodexStream):
                kept.used = asdict(stream.used)
            if session is not None and self._is_lost(ended):
                await self._begin_anew(kept, session)
                continue
            return check_ended(self._spec, ended, self._redactor)
        raise OmiumError("process_failed", f"{self._spec.name} loses its conversations.", reason="session_lost")

    async def _leave_to_start(self) -> None:
        """It asks for nothing while it works, so policy is asked once, for what its sandbox lets it do."""
        spec = self._spec
        arguments: dict[str, Value] = {"sandbox": spec.sandbox, "prompt": self._task.prompt, "model": spec.model}
        preview = f"{spec.kind} works without asking, in its sandbox {spec.sandbox}:\n{self._task.prompt[:2_000]}"
        await self._attempt.gate(Call("start", "permission", spec.kind, arguments, preview=preview, agent=spec.name))

    # --- the process ----------------------------------------------------------------------------------------------

    def _command(
        self,
        kept: Kept,
        argv: list[str],
        extra: Mapping[str, str],
        *,
        stdin: bytes | None = None,
        descriptor: int | None = None,
    ) -> Command:
        spec, attempt = self._spec, self._attempt
        environment = {**extra, **declared(spec.pass_env, spec.env)}
        if descriptor is not None:
            environment[claude.KEY_DESCRIPTOR] = str(descriptor)
        return Command(
            argv=(*spec.wrapped(self._workspace), *argv),
            cwd=self._workspace,
            env=environment,
            stdin=stdin,
            interactive=stdin is None,
            hard_timeout_s=spec.timeout_s,
            idle_timeout_s=spec.idle_timeout_s,
            memory_limit_bytes=spec.memory_limit_bytes,
            output_limit_bytes=spec.output_limit_bytes,
            grace_s=_GRACE_S,
            keep_bytes=64 * 1024,
            marker={"run_id": attempt.run_id, "node_id": attempt.node_id, "attempt": str(attempt.attempt)},
            pass_fds=() if descriptor is None else (descriptor,),
            token=kept.token,
        )

    async def _converse(
        self,
        desk: AttemptDesk,
        command: Command,
        parse: Callable[[str], list[Event]],
        *,
        opening: bytes = b"",
        otherwise: bytes | None = None,
        controlled: bool = False,
    ) -> Ended:
        program = Program(
            self._spec.name,
            command.argv,
            str(self._workspace),
            tuple(sorted(command.env)),
            self._spec.timeout_s,
        )
        watching = Watched(
            self._supervision, program, self._attempt, str(command.token), self._credentials, files=False
        )
        with desk.logging() as log, watching as watched:

            def on_line(stream: StreamName, line: str) -> None:
                if log is not None:
                    log(stream, line)
                if watched.hears:
                    watched.line(stream, line)

            conversation = Conversation(
                command,
                parse,
                desk,
                opening=opening,
                otherwise=otherwise,
                controlled=controlled,
                on_line=on_line,
                on_start=watched.started,
            )
            ended = await desk.attend(conversation, watched.refresh)
            if desk.asks_a_person:
                watched.outcome = "waiting_approval"
            elif ended.exit.reason in ("hard_timeout", "idle_timeout"):
                watched.outcome = "failed_timeout"
            elif ended.result is None or not ended.result.ok:
                watched.outcome = "failed"
            return ended
