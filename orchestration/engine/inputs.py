"""What a node is given: its template over the run's inputs and its upstreams' outputs, and the key of that.

A node's key says when its result may stand for another run of it: equal definition, equal code, equal inputs, equal
starting tree. Whole outputs enter the key by their digest, so that nothing large is serialised again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omium.orchestration.definition.expressions import render
from omium.orchestration.definition.model import MAX_DEPTH
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.orchestration.values import digest_of

_SHORT = 256  # characters of a template that is worth remembering
_WHOLE = re.compile(r"\A\$\{\{\s*nodes\.([A-Za-z_]\w*)\.output\s*\}\}\Z")


@lru_cache(maxsize=4096)
def _output_of(template: str) -> str | None:
    """The node whose output the template is as a whole, if any."""
    whole = _WHOLE.match(template)
    return whole[1] if whole is not None else None


def resolve(template: Any, scope: Mapping[str, Any], outputs: Mapping[str, Digest]) -> tuple[Any, Any]:
    """The value of a template and the form of it that enters the key. `outputs`: node name -> digest of its output."""
    return _resolve(template, scope, outputs, 0)


def _resolve(template: Any, scope: Mapping[str, Any], outputs: Mapping[str, Digest], depth: int) -> tuple[Any, Any]:
    if depth > MAX_DEPTH:
        raise OmiumError("expression_error", f"a template is deeper than {MAX_DEPTH}.")
    if isinstance(template, str):
        name = None
        if "${{" in template:
            name = _output_of(template) if len(template) <= _SHORT else _output_of.__wrapped__(template)
        if name is not None and name in outputs:
            value = render(template, scope) if depth == 0 else _whole(scope, name, depth)
            return value, {"$output": outputs[name]}
        value = render(template, scope)
        return value, value
    if isinstance(template, dict):
        values, forms = {}, {}
        for name, item in template.items():
            values[name], forms[name] = _resolve(item, scope, outputs, depth + 1)
        return values, forms
    if isinstance(template, list):
        items = [_resolve(item, scope, outputs, depth + 1) for item in template]
        return [v for v, _ in items], [f for _, f in items]
    return template, template


def _whole(scope: Mapping[str, Any], name: str, depth: int) -> Any:
    value = scope["nodes"][name]["output"]
    if depth and _depth(value, MAX_DEPTH - depth + 1) > MAX_DEPTH - depth:
        raise OmiumError("expression_error", f"the output of {name} makes the input deeper than {MAX_DEPTH}.")
    return value


def _depth(value: Any, limit: int) -> int:
    """Containers within containers, counted up to `limit`."""
    if type(value) is dict:
        items = value.values()
    elif type(value) is list:
        items = value  # type: ignore[assignment]
    else:
        return 0
    if limit <= 0:
        return 1
    deepest = 0
    for item in items:
        if type(item) is dict or type(item) is list:
            deepest = max(deepest, _depth(item, limit - 1))
    return deepest + 1


def node_key(node_hash: str, code: str, form: Any, tree: str | None) -> str:
    """The key of a node's result, 64 hexadecimal digits."""
    text = "\n".join((node_hash, code, digest_of(form), tree or ""))
    return hashlib.sha256(text.encode()).hexdigest()
