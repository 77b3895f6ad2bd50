"""Open Policy Agent as a second opinion, over its REST API; it can only take back what our own policy leaves open.

`POST /v1/data/<path>` with `{"input": <question>}` (https://www.openpolicyagent.org/docs/rest-api#get-a-document-with-input).
OPA answers a path that is undefined, misspelt or of a bundle that is not loaded with 200 and `{}`. That is a denial
here, and so is everything else that is not plainly an answer: another status, a time-out, no connection, another type.
That holds whatever the policy says about errors: whoever declares OPA wants it to be asked.

The result may be `true` or `false`, or an object with `allow: true | false` or `effect: allow | require_approval |
deny`, and with `reason` and `min_assurance` besides.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self
from urllib.parse import quote, urlsplit

import anyio

from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy.model import (
    ASSURANCE_ORDER,
    EFFECTS,
    STRICTNESS,
    ApprovalTerms,
    Decision,
    Effect,
    Question,
)
from omium.orchestration.ports_calls import Limits
from omium.orchestration.values import encode

if TYPE_CHECKING:
    import httpx


logger = logging.getLogger(__name__)

MAX_ANSWER: Final = 256 * 1024
MAX_REASON: Final = 500
_PATH: Final = re.compile(r"\A[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*\Z")
_ASKED_FOR: Final = ApprovalTerms("out_of_band")
"""How a person decides what only OPA wants to have decided, unless it says otherwise."""


class _Refused(Exception):
    """OPA gave no answer that could be taken for leave. Never leaves this module."""


@dataclass(frozen=True, slots=True)
class _Answer:
    effect: Effect
    reason: str
    min_assurance: Any
    provenance: Mapping[str, Any]


class Opa:
    """A policy agent. url: such as `http://127.0.0.1:8181`; path: of the rule, `omium/decision` for
    `data.omium.decision`; timeout_s: for one question as a whole. An async context manager; closing ends connections.
    """

    def __init__(self, url: str, path: str, timeout_s: float = 1.0) -> None:
        """Raises `invalid_argument` for a URL or path that cannot be one."""
        self.path = checked_path(path)
        self.url = checked_url(url)
        self.timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def tighten(self, question: Question, decision: Decision) -> Decision:
        """The decision after OPA was asked: the same, or one that withholds more. Raises nothing but cancellation. What
        is denied already is not asked about."""
        if decision.effect == "deny":
            return decision
        try:
            with anyio.fail_after(self.timeout_s):
                answer = _read(await self._ask(question, decision))
        except TimeoutError:
            return self._denied(decision, f"OPA did not answer within {self.timeout_s:g} s")
        except _Refused as refused:
            return self._denied(decision, str(refused))
        except Exception as error:  # a boundary: no failure of a client library may turn into leave
            logger.warning("OPA at %s could not be asked: %s", self.url, error)
            return self._denied(decision, f"OPA could not be asked ({type(error).__name__})")
        told = {**decision.provenance, "opa": {"path": self.path, **answer.provenance}}
        if answer.effect == "deny":
            return replace(self._denied(decision, answer.reason), provenance=told)
        if answer.effect == "require_approval":
            return self._to_be_asked(replace(decision, provenance=told), answer)
        return replace(decision, provenance=told)

    def _to_be_asked(self, decision: Decision, answer: _Answer) -> Decision:
        terms = replace(_ASKED_FOR, min_assurance=answer.min_assurance) if answer.min_assurance else None
        if decision.approval is not None:
            return decision if terms is None else replace(decision, approval=decision.approval.stricter(terms))
        return replace(
            decision,
            effect="require_approval",
            rule=f"opa:{self.path}",
            reason=answer.reason,
            approval=terms or _ASKED_FOR,
        )

    def _denied(self, decision: Decision, reason: str) -> Decision:
        return replace(
            decision,
            effect="deny",
            rule=f"opa:{self.path}",
            reason=reason,
            limits=Limits(),
            redact=(),
            trusts=frozenset(),
            approval=None,
            rate_rule=None,
            provenance={**decision.provenance, "opa": {"path": self.path}},
        )

    async def _ask(self, question: Question, decision: Decision) -> bytes:
        """The body of OPA's answer. Raises _Refused for another status than 200 and for too long an answer."""
        try:
            asked = {**question.as_dict(), "decided": {"effect": decision.effect, "rule": decision.rule}}
            body = b'{"input":' + encode(asked).data[1:] + b"}"  # without the byte that tells the encoding's version
        except OmiumError as error:
            raise _Refused(f"OPA cannot be told what is asked: {error.message}") from error
        place = f"{self.url}/v1/data/{quote(self.path)}"
        headers = {"content-type": "application/json"}
        async with self._connected().stream(
            "POST", place, params={"provenance": "true"}, content=body, headers=headers
        ) as response:
            if response.status_code != 200:
                raise _Refused(f"OPA answered with the status {response.status_code}")
            text = b""
            async for piece in response.aiter_bytes():
                text += piece
                if len(text) > MAX_ANSWER:
                    raise _Refused(f"OPA answered with more than {MAX_ANSWER:,} bytes")
            return text

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            import httpx

            # No proxy of the environment, and no redirect: the answer comes from where the operator said.
            self._client = httpx.AsyncClient(
                timeout=self.timeout_s, trust_env=False, follow_redirects=False, headers={"user-agent": "omium"}
            )
        return self._client


def checked_url(text: str) -> str:
    """The base URL of an OPA without its last slash. Raises `invalid_argument`."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment or not text.isprintable():
        raise OmiumError("invalid_argument", f"{text[:200]!r} is no URL of an OPA.", "Such as http://127.0.0.1:8181.")
    return text.rstrip("/")


def checked_path(text: str) -> str:
    """The path of a rule: `omium/decision`, or `data.omium.decision`, which is the same. Raises `invalid_argument`."""
    path = text.removeprefix("/").removeprefix("v1/data/")
    if path.startswith("data."):
        path = path.removeprefix("data.").replace(".", "/")
    if not _PATH.match(path) or len(path) > 512 or ".." in path.split("/"):
        raise OmiumError("invalid_argument", f"{text[:200]!r} is no path of a rule.", "Such as omium/decision.")
    return path


def _read(body: bytes) -> _Answer:
    try:
        said = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _Refused("OPA's answer is not JSON") from None
    if not isinstance(said, dict) or "result" not in said:
        raise _Refused("OPA has no such rule: its answer holds no result")
    effect, reason, assurance = _result(said["result"])
    return _Answer(effect, reason, assurance, _provenance(said))


def _result(result: Any) -> tuple[Effect, str, Any]:
    """(effect, reason, minimal assurance or None)."""
    if isinstance(result, bool):
        return ("allow" if result else "deny"), "OPA says so", None
    if not isinstance(result, dict):
        raise _Refused("OPA's result is neither true nor false nor an object")
    allow, effect = result.get("allow"), result.get("effect")
    if allow is None and effect is None:
        raise _Refused("OPA's result has neither `allow` nor `effect`")
    if (allow is not None and not isinstance(allow, bool)) or (effect is not None and effect not in EFFECTS):
        raise _Refused("OPA's result has an `allow` or `effect` that is none")
    assurance = result.get("min_assurance")
    if assurance is not None and assurance not in ASSURANCE_ORDER:
        raise _Refused("OPA's result has a `min_assurance` that is none")
    reason = result.get("reason")
    said: list[Effect] = [effect] if effect is not None else []
    if allow is not None:
        said.append("allow" if allow else "deny")
    words = reason[:MAX_REASON] if isinstance(reason, str) and reason else "OPA says so"
    return max(said, key=STRICTNESS.__getitem__), words, assurance


def _provenance(said: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies the decision and the policies that OPA had loaded."""
    found: dict[str, Any] = {}
    if isinstance(said.get("decision_id"), str):
        found["decision_id"] = said["decision_id"][:200]
    told = said.get("provenance")
    if not isinstance(told, dict):
        return found
    if isinstance(told.get("version"), str):
        found["version"] = told["version"][:200]
    bundles = told.get("bundles")
    if isinstance(bundles, dict):
        found["revisions"] = {
            str(name)[:200]: str(one["revision"])[:200]
            for name, one in list(bundles.items())[:50]
            if isinstance(one, dict) and isinstance(one.get("revision"), str)
        }
    elif isinstance(told.get("revision"), str):
        found["revisions"] = {"": told["revision"][:200]}
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
