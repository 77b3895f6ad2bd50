"""What identifies a definition: SHA-256 over its canonical document.

The same workflow has the same hash whether it was written in YAML, JSON or Python, with whatever spelling of durations,
defaults and short forms.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import orjson

from omium.orchestration.definition.model import NodeDef, Retry, WorkflowDef
from omium.orchestration.ids import Digest

# The form of the document is part of what is hashed: a later form must not give the hash of an earlier one.
_FORM = b"omium.definition.v1\n"


def definition_hash(workflow: WorkflowDef) -> Digest:
    """The digest of a whole workflow: anything that is changed in it changes this."""
    from omium.orchestration.definition.schema import to_document

    return _digest(to_document(workflow))


def node_hash(node: NodeDef) -> Digest:
    """The digest of what a node computes from its inputs, the nodes inside it included.

    Left out is what cannot change its result: description, edges (what flows along them is in its inputs), retry,
    time-out, budget, priority, resources, compensation, and what happens when it is paused or its outcome is unknown.
    """
    from omium.orchestration.definition.schema import node_document

    return _digest(node_document(_essence(node, top=True)))


def _essence(node: NodeDef, top: bool = False) -> NodeDef:
    return replace(
        node,
        description="",
        needs=() if top else node.needs,
        retry=Retry(),
        timeout_s=None,
        on_unknown=None,
        budget=None,
        priority=0,
        resources=(),
        compensate=None,
        on_pause="finish",
        body=tuple(_essence(inner) for inner in node.body),
    )


def _digest(document: dict[str, Any]) -> Digest:
    try:
        text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer over 64 bits in a template
        text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return Digest(hashlib.sha256(_FORM + text).hexdigest())
