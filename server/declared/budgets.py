"""`budgets:` of `omium.yaml`: how much calls may cost.

budgets:
  daily: {period: day, usd: 20}
  each-run: {scope: run, usd: 2, tokens: 400k}
  researcher: {scope: agent, agent: research-*, period: month, tokens: 5M}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, model_validator

from omium.orchestration.definition.schema import FileModel
from omium.orchestration.gates.budgets import BudgetRule, Period, Scope

_COUNT: Final = re.compile(r"\A([0-9]{1,12}(?:\.[0-9]{1,3})?)([kM])\Z")
_TIMES: Final = {"k": 1_000, "M": 1_000_000}


def count(value: Any) -> Any:
    """A number, or text such as `400k` or `5M`."""
    match = _COUNT.match(value) if isinstance(value, str) else None
    return int(float(match[1]) * _TIMES[match[2]]) if match else value


Count = Annotated[int, BeforeValidator(count, json_schema_input_type=int | str), Field(ge=0)]


class BudgetFile(FileModel):
    scope: Scope = "project"
    period: Period | None = None
    usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    tokens: Count | None = None
    calls: Count | None = None
    workflow: Annotated[str, Field(min_length=1, max_length=200)] = "*"
    agent: Annotated[str, Field(min_length=1, max_length=200)] = "*"

    @model_validator(mode="after")
    def _limits_something(self) -> BudgetFile:
        if self.usd is None and self.tokens is None and self.calls is None:
            raise ValueError("limits nothing; expected usd, tokens or calls")
        return self


def budget_rules(files: Mapping[str, BudgetFile]) -> tuple[BudgetRule, ...]:
    """What the file declares, in its order."""
    return tuple(
        BudgetRule(name, one.scope, one.period, one.usd, one.tokens, one.calls, one.workflow, one.agent)
        for name, one in files.items()
    )
