"""The environment of a child: an allow-list and what the operator declares, never the parent's as it stands."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

from omium.clients.processes.tree import MARKER
from omium.orchestration.errors import OmiumError

# What programs need to find their files and to speak the user's language, and nothing that carries a secret.
_INHERITED: Final = frozenset({"HOME", "LANG", "LANGUAGE", "LOGNAME", "SHELL", "TMPDIR", "TZ", "USER"})
_INHERITED_PREFIX: Final = "LC_"
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"

# Variables through which whoever sets them runs code in any program that is started.
_INJECTING: Final = frozenset(
    {"BASH_ENV", "ENV", "GCONV_PATH", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF", "GIT_SSH", "GIT_SSH_COMMAND", "IFS"}
    | {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "NODE_OPTIONS", "NODE_PATH", "PERL5DB", "PERL5LIB", "PERL5OPT"}
    | {"PERLLIB", "PROMPT_COMMAND", "PS4", "RUBYLIB", "RUBYOPT", "SHELLOPTS", "BASHOPTS", "ZDOTDIR", "_JAVA_OPTIONS"}
    | {"PYTHONBREAKPOINT", "PYTHONEXECUTABLE", "PYTHONHOME", "PYTHONINSPECT", "PYTHONPATH", "PYTHONPLATLIBDIR"}
    | {"PYTHONPYCACHEPREFIX", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONWARNINGS"}
)
_INJECTING_PREFIXES: Final = ("LD_", "DYLD_", "BASH_FUNC_", "GIT_CONFIG")
_RESERVED_PREFIX: Final = "OMIUM_"

_NAME: Final = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z")
_BEGINNING: Final = 4  # characters


def check_declared(names: Iterable[str]) -> None:
    """Refuses names of variables that an operator may not declare for a child.

    Raises OmiumError("invalid_definition") for a name that is none, one that injects code into any program
    (`LD_PRELOAD`, `PYTHONPATH`, `NODE_OPTIONS`, ...), and the names that the supervisor sets itself (`OMIUM_*`).
    """
    for name in names:
        if not _NAME.match(name):
            # Only how it begins: it may be the key itself, put where the name of its variable belongs.
            shown = repr(name) if len(name) <= _BEGINNING else f"{name[:_BEGINNING]!r}..."
            raise OmiumError(
                "invalid_definition",
                f"{shown} is not the name of an environment variable.",
                "Name the variable; what it holds stands in the environment only.",
            )
        if name in _INJECTING or name.startswith(_INJECTING_PREFIXES):
            raise OmiumError(
                "invalid_definition",
                f"The environment variable {name} can change what any program executes, so it is never handed on.",
                "Set it inside a script of your own and register that script as the command.",
                name=name,
            )
        if name.startswith(_RESERVED_PREFIX):
            raise OmiumError(
                "invalid_definition", f"The environment variable {name} is set by Omium itself.", "Choose another name."
            )


def declared(
    pass_through: Iterable[str], constants: Mapping[str, str], parent: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The declared part of a child's environment: variables of `parent` (os.environ) by name, then constants.

    A name that the parent does not have is left out. Raises what `check_declared` raises.
    """
    source = os.environ if parent is None else parent
    names = tuple(pass_through)
    check_declared((*names, *constants))
    return {**{name: source[name] for name in names if name in source}, **constants}


def child_environment(
    extra: Mapping[str, str], marker: Mapping[str, str], token: str, parent: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a child.

    extra: what was declared; marker: what the process belongs to (`run_id`, `node_id`, `attempt`), which becomes
    `OMIUM_RUN_ID` and so on; token: what the sweep looks for. HEADLESS=1 and CI=1 say that nobody can answer a prompt.
    """
    source = os.environ if parent is None else parent
    kept = {name: value for name, value in source.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIX)}
    outer = source.get(MARKER)
    return {
        **kept,
        "HEADLESS": "1",
        "CI": "1",
        **extra,
        "PATH": _safe_path(extra.get("PATH", source.get("PATH", ""))),
        **{f"{_RESERVED_PREFIX}{key.upper()}": value for key, value in marker.items()},
        MARKER: f"{outer}/{token}" if outer else token,
    }


def _safe_path(path: str) -> str:
    # An empty or relative entry means "the current directory", which is the workspace that an agent writes to.
    kept = [entry for entry in path.split(os.pathsep) if os.path.isabs(entry)]
    return os.pathsep.join(kept) or _DEFAULT_PATH
