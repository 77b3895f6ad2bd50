"""What identifies a definition: SHA-256 over its canonical document.

The same workflow has the same hash whether it was written in YAML, JSON or Python, with whatever spelling of durations,
defaults and short forms.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import orjson

from omium.orchestration.definition.model import NodeDef, WorkflowDef
from omium.orchestration.ids import Digest

# The form of the document is part of what is hashed: a later form must not give the hash of an earlier one.
_FORM = b"omium.definition.v1\n"


def definition_hash(workflow: WorkflowDef) -> Digest:
    """The digest of a whole workflow: anything that is changed in it changes this."""
    from omium.orchestration.definition.schema import to_document

    return _digest(to_document(workflow))


# What cannot change the result of a node.
_INESSENTIAL = frozenset(
    {
        "description", "retry", "timeout_s", "on_unknown", "budget", "priority", "resources", "compensate", "on_pause",
    }
)  # fmt: skip


def node_hash(node: NodeDef) -> Digest:
    """The digest of what a node computes from its inputs, the nodes inside it included.

    Left out is what cannot change its result: description, edges (what flows along them is in its inputs), retry,
    time-out, budget, priority, resources, compensation, and what happens when it is paused or its outcome is unknown.
    """
    from omium.orchestration.definition.schema import node_document

    document = node_document(node, _INESSENTIAL)
    document.pop("needs", None)
    return _digest(document)


def _digest(document: dict[str, Any]) -> Digest:
    try:
        text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer over 64 bits in a template
        text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return Digest(hashlib.sha256(_FORM + text).hexdigest())
