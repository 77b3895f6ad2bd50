"""The policies that come with Omium, as documents.

`safe`, which a project without a policy has, asks for everything outside but what the operator registered by name:
models and commands. `research` allows everything that no rule withholds, and all of it is in the audit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from omium.orchestration.gates.policy.model import DAY_S

PROFILES: Final[Mapping[str, Mapping[str, Any]]] = {
    "research": {"default": "allow", "on_error": "allow", "rules": []},
    "safe": {
        "default": "require_approval",
        "on_error": "deny",
        "redact": ["secrets"],
        "approval": {"min_assurance": "out_of_band", "ttl": DAY_S},
        "rules": [
            {
                "id": "safe-registered",
                "effect": "allow",
                "description": "The operator registered this model or command.",
                "match": {"action": ["model", "command"]},
            }
        ],
    },
}
DEFAULT_PROFILE: Final = "safe"
