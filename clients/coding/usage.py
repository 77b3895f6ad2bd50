"""What a coding CLI's requests to its model take and cost, and the part of the budgets that is held for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any, Final

from omium.clients.coding.events import Said, Tokens
from omium.clients.coding.spec import CodingSpec, Kind
from omium.orchestration.ports import Attempt
from omium.orchestration.ports_calls import Reservation

_UNIT: Final = 10_000
_PROVIDERS: Final[dict[Kind, str]] = {"claude": "anthropic", "codex": "openai", "gemini": "google"}
# With another address or a broker between, the list price would be that of another service.
_ELSEWHERE: Final = frozenset(
    {
        "ANTHROPIC_BASE_URL",
        "CLAUDE_CODE_USE_BEDROCK",
        "CLAUDE_CODE_USE_VERTEX",
        "OPENAI_BASE_URL",
        "GOOGLE_GEMINI_BASE_URL",
    }
)


def cost_usd(kind: Kind, model: str | None, tokens: Tokens) -> float | None:
    """US dollars by the price list; None when it does not know the model. At the prices of ordinary requests: the
    tokens are those of many, and which of them were so long that some models charge more is not told."""
    if tokens.total == 0:
        return 0.0
    prices = None if model is None else _prices(kind, model)
    if prices is None:
        return None
    counts = (tokens.input, tokens.output, tokens.cache_read, tokens.cache_write)
    return sum(count * price for count, price in zip(counts, prices, strict=True))


@lru_cache(maxsize=256)
def _prices(kind: Kind, model: str) -> tuple[float, float, float, float] | None:
    """Of one token of input, output, read from a cache and written to one."""
    from genai_prices import Usage, calc_price

    def price(**counts: int) -> float:
        return float(calc_price(Usage(**counts), model, provider_id=_PROVIDERS[kind]).total_price) / _UNIT

    try:
        return (
            price(input_tokens=_UNIT),
            price(output_tokens=_UNIT),
            # In the list's terms the input includes what the cache gave and took.
            price(input_tokens=_UNIT, cache_read_tokens=_UNIT),
            price(input_tokens=_UNIT, cache_write_tokens=_UNIT),
        )
    except LookupError:
        return None


def is_priced(spec: CodingSpec) -> bool:
    """Whether the price list is that of the service that this CLI talks to."""
    return not _ELSEWHERE & {*spec.env, *spec.pass_env}


class Meter:
    """Counts one attempt's tokens, and holds budgets ahead of them: a part before it begins, and another whenever that
    is used up. A budget that has nothing left ends the work; what went over by then is at most one answer."""

    def __init__(self, spec: CodingSpec, attempt: Attempt) -> None:
        self._spec = spec
        self._attempt = attempt
        self._held: list[Reservation] = []
        self._running: dict[str, Tokens] = {}  # answers of a turn that has no result yet
        self._settled = False
        self._before: Mapping[str, int] = {}
        self.done = Tokens()
        self.turns = 0
        self.model: str | None = spec.model

    def goes_on(self, spent: Mapping[str, int]) -> None:
        """spent: what `spent` said at the end of the attempt before, of the same generation."""
        self._before = spent

    def spent(self) -> dict[str, int]:
        """What the node has taken so far, this attempt and those before it, by the names of `Tokens`, and `turns`."""
        taken = {**asdict(self.tokens), "turns": self.turns}
        return {name: self._before.get(name, 0) + count for name, count in taken.items()}

    async def hold(self) -> None:
        """Hold one more part. Raises `budget_exceeded`."""
        part = self._spec.reserve_tokens
        usd = self.price(Tokens(input=part)) if part else 0.0
        self._held.append(await self._attempt.reserve(self._spec.name, tokens=part, usd=usd))

    def heard(self, said: Said) -> bool:
        """Count an answer that is under way; whether more has to be held."""
        if said.tokens is not None:
            self._running[said.message] = said.tokens
        part = self._spec.reserve_tokens
        return bool(part) and self.tokens.total > part * len(self._held)

    def ended(self, tokens: Tokens, turns: int, model: str | None) -> None:
        """A turn has ended: its result's figures replace what was counted meanwhile."""
        self._running.clear()
        self.done += tokens
        self.turns += turns
        self.model = model or self.model

    @property
    def answers(self) -> int:
        """How many turns of the model there were, the one that is under way among them."""
        return self.turns + len(self._running)

    @property
    def tokens(self) -> Tokens:
        """Of this attempt; of a turn without a result, what its answers said, which may be less than they took."""
        return sum(self._running.values(), self.done)

    @property
    def usd(self) -> float | None:
        return self.price(self.tokens)

    def price(self, tokens: Tokens) -> float | None:
        """In USD; None where it is not known."""
        return cost_usd(self._spec.kind, self.model, tokens) if is_priced(self._spec) else None

    async def settle(self) -> None:
        """Give back what was held, and note what was used. Once."""
        if self._settled:
            return
        self._settled = True
        for number, held in enumerate(self._held):
            if number:
                await held.settle(calls=0)
            else:
                total = self.tokens
                usd = self.usd if total.total else 0.0
                await held.settle(tokens=total.total, usd=usd, calls=self.turns or 1, model=self.model)

    def as_dict(self) -> dict[str, Any]:
        """What the node's usage says: of all its attempts."""
        spent = self.spent()
        del spent["turns"]
        tokens = Tokens(**spent)
        usd = self.price(tokens)
        told: dict[str, Any] = {
            "tokens": tokens.total,
            "input_tokens": tokens.input,
            "output_tokens": tokens.output,
            "cache_read_tokens": tokens.cache_read,
            "cache_write_tokens": tokens.cache_write,
            "cost_usd": usd,
            "model": self.model,
        }
        if usd is None:
            told["price_unknown"] = True
        return told
