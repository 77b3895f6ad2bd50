"""Nodes of kind `tool`: one call of one external tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from omium.clients.external.tools import ExternalTools
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Attempt, Done
from omium.orchestration.values import Value, encode

_KEY: Final = 24  # characters of a digest that tell the calls of one node apart


class ToolExecutor:
    """See `orchestration.ports.Executor`; a node's `use` is `server/tool`."""

    def __init__(self, tools: ExternalTools) -> None:
        self._tools = tools

    def digest(self, use: str) -> str:
        """The tool's pin: when that changes, a result of before is no longer the node's."""
        return self._tools.digest(use)

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        """Call the tool with the node's inputs. Raises what `Tools.call` raises."""
        if not isinstance(inputs, Mapping):
            raise OmiumError("invalid_argument", f"the tool {use!r} needs an object of arguments, not {inputs!r:.80}.")
        key = f"n:{encode([use, inputs]).digest[:_KEY]}"  # the same call in whichever attempt it is met again
        return Done(await self._tools.call(use, inputs, attempt, key=key))
