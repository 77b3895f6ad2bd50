"""What calls of models take and cost. A price that is not known is said to be unknown, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from omium.clients.agents.spec import SCRIPTED, AgentLimits, ModelSpec
from omium.orchestration.errors import OmiumError

_CHARS_PER_TOKEN: Final = 3.5
_ANSWER_TOKENS: Final = 1_024  # what an answer is taken to need, before it is known


@dataclass(slots=True)
class Usage:
    """Sums over the calls of one node. cost_usd: of those whose price is known; price_unknown: there were others."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    price_unknown: bool = False
    model: str | None = None

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def as_dict(self) -> dict[str, Any]:
        told = {"tokens": self.tokens, **asdict(self)}
        if not self.price_unknown:
            del told["price_unknown"]
        return told

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Usage:
        return cls(**{name: told[name] for name in cls.__slots__ if name in told})

    def add(self, input_tokens: int, output_tokens: int, usd: float | None, model: str | None) -> None:
        self.calls += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.model = model or self.model
        if usd is None:
            self.price_unknown = True
        else:
            self.cost_usd += usd


def cost_usd(
    model: ModelSpec, input_tokens: int, output_tokens: int, *, cached_tokens: int = 0, called: str | None = None
) -> float | None:
    """US dollars, by the declared price or else by the price list; None when neither knows. A model behind a
    `base_url` of one's own has only a declared price: a list price would be that of another service."""
    if model.price is not None:
        per_input, per_output = model.price.input_per_million, model.price.output_per_million
        return (input_tokens * per_input + output_tokens * per_output) / 1e6
    if model.provider == SCRIPTED:
        return 0.0
    from genai_prices import Usage as Listed
    from genai_prices import calc_price

    counted = Listed(input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cached_tokens or None)
    names = [name for name in dict.fromkeys((called, model.name)) if name]
    for name in names:
        try:
            if model.base_url is not None:
                found = calc_price(counted, name, provider_api_url=model.base_url)
            else:
                found = calc_price(counted, name, provider_id=_LISTED_AS.get(model.provider, model.provider))
        except LookupError:
            continue
        return float(found.total_price)
    return None


_LISTED_AS: Final[Mapping[str, str]] = {"gemini": "google", "vertexai": "google", "bedrock": "aws", "xai": "x-ai"}


def estimate(model: ModelSpec, prompt_chars: int) -> tuple[int, float | None]:
    """(tokens, US dollars) that a call with such a prompt may take, to hold them before it is made."""
    prompt = int(prompt_chars / _CHARS_PER_TOKEN) + 1
    answer = model.max_tokens or _ANSWER_TOKENS
    return prompt + answer, cost_usd(model, prompt, answer)


def check_limits(limits: AgentLimits, used: Usage, tokens: int, usd: float | None) -> None:
    """Refuse a call that a limit of the agent does not leave room for: `budget_exceeded`."""
    if used.calls >= limits.turns:
        raise exceeded("turns", limits.turns, used.calls)
    if limits.tokens is not None and used.tokens + tokens > limits.tokens:
        raise exceeded("tokens", limits.tokens, used.tokens)
    if limits.usd is None:
        return
    if usd is None or used.price_unknown:
        raise OmiumError(
            "budget_exceeded",
            "the agent has a limit in US dollars, but the price of its model is not known.",
            "Declare model.price, or limit tokens instead.",
            limit="usd",
        )
    if used.cost_usd + usd > limits.usd:
        raise exceeded("usd", limits.usd, used.cost_usd)


def exceeded(what: str, limit: float, used: float) -> OmiumError:
    return OmiumError(
        "budget_exceeded",
        f"the agent has used {used:g} of {limit:g} {what}, which leaves no room for another call.",
        f"Raise limits.{what} of the agent.",
        limit=what,
        used=used,
        allowed=limit,
    )
