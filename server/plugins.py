"""What installed packages offer, by entry points. Those of one package that cannot be used are left out and named, by
the log and by `omium doctor`; what the other packages offer, and the project itself, is as if they were not there.

| group | name | what it is |
|---|---|---|
| `omium.functions` | of the function | `package.module:function`, run in worker processes |
| `omium.agents` | any | an `AgentDef`, or a function that gives one |
| `omium.agent_adapters` | of the framework | an `Adapter`, or its class |
| `omium.workflows` | of the workflow | a `WorkflowDef`, or a function that gives one |
| `omium.storage` | the scheme of its URLs | what has `open` as `storage.open.Backend` says |
| `omium.notifiers` | the `kind` in `notify:` | a function of an endpoint and a clock that gives a `Notifier` |
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.catalog import is_function_ref
from omium.storage.open import STORAGE_GROUP

if TYPE_CHECKING:
    from omium.clients.agents.spec import AgentDef

FUNCTIONS_GROUP: Final = "omium.functions"
AGENTS_GROUP: Final = "omium.agents"
ADAPTERS_GROUP: Final = "omium.agent_adapters"
WORKFLOWS_GROUP: Final = "omium.workflows"
NOTIFIERS_GROUP: Final = "omium.notifiers"
GROUPS: Final = (FUNCTIONS_GROUP, AGENTS_GROUP, ADAPTERS_GROUP, WORKFLOWS_GROUP, STORAGE_GROUP, NOTIFIERS_GROUP)

_log = logging.getLogger(__name__)
_said: set[str] = set()
_MOST_WATCHED: Final = 500


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point. package: the distribution that offers it; problem: why it cannot be used, empty if it can."""

    group: str
    name: str
    package: str
    value: str
    problem: str = ""


def points(group: str) -> Iterable[EntryPoint]:
    """The entry points of a group, of all that is installed."""
    return importlib.metadata.entry_points(group=group)


def load(point: EntryPoint) -> Any:
    """What an entry point names. Raises `unsupported`, with the reason: importing runs code of the package's, which may
    raise anything."""
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # the boundary between Omium and a package that it does not know
        raise unusable(point, f"{type(error).__name__}: {error}") from error


def made(point: EntryPoint, kind: type[Any]) -> Any:
    """What an entry point names, or what the function or class that it names gives, which has to be of this kind.
    Raises `unsupported`."""
    offered = load(point)
    if isinstance(offered, kind):
        return offered
    offered = called(point, offered)
    if not isinstance(offered, kind):
        raise unusable(point, f"it gives no {kind.__name__}")
    return offered


def called(point: EntryPoint, function: Any, *arguments: Any) -> Any:
    """What a function or a class of a plugin gives. Raises `unsupported`."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # the same boundary
        raise unusable(point, f"{type(error).__name__}: {error}") from error


def offered_adapter(point: EntryPoint) -> Any:
    """The adapter of an entry point of `omium.agent_adapters`. Raises `unsupported`."""
    offered = load(point)
    return called(point, offered) if isinstance(offered, type) else offered


def unusable(point: EntryPoint, problem: str) -> OmiumError:
    package = package_of(point)
    return OmiumError(
        "unsupported",
        f"the plugin {point.name!r} ({point.group}) of {package} cannot be used: {problem[:500]}",
        f"Repair it, or remove it: pip uninstall {package}",
    )


def package_of(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value.partition(":")[0]


def left_out(error: OmiumError) -> None:
    """Say that a plugin is left out, once."""
    if error.message in _said:
        return
    _said.add(error.message)
    _log.warning("%s. What else there is, is used.", error.message.rstrip("."))


def offered_agent(point: EntryPoint) -> AgentDef:
    """The agent of an entry point of `omium.agents`. Raises `unsupported`."""
    from omium.clients.agents.spec import AgentDef

    agent: AgentDef = made(point, AgentDef)
    return replace(agent, source=agent.source or f"entry point {point.name}")


def survey() -> Iterator[Plugin]:
    """Every plugin, each tried as it would be used, which imports it; in the order of the groups."""
    from omium.orchestration.definition.model import WorkflowDef

    checks: dict[str, Callable[[EntryPoint], Any]] = {
        FUNCTIONS_GROUP: _function,
        AGENTS_GROUP: offered_agent,
        ADAPTERS_GROUP: offered_adapter,
        WORKFLOWS_GROUP: lambda point: made(point, WorkflowDef),
    }
    for group in GROUPS:
        for point in points(group):
            problem = ""
            try:
                checks.get(group, load)(point)
            except OmiumError as error:
                problem = error.message.partition("cannot be used: ")[2] or error.message
            yield Plugin(group, point.name, package_of(point), point.value, problem)


def _function(point: EntryPoint) -> None:
    if not is_function_ref(point.value):
        raise unusable(point, f"{point.value!r} is not package.module:function")
    if not callable(load(point)):
        raise unusable(point, f"{point.value} cannot be called")


# --- code that changes while the process lives ------------------------------------------------------------------------


def files_behind(given: Iterable[EntryPoint]) -> list[Path]:
    """The files of the packages that these entry points are in, as far as this process has loaded them."""
    tops = {_top(point) for point in given}
    files = (getattr(module, "__file__", None) for name, module in _modules_of(tops))
    return sorted({Path(file) for file in files if isinstance(file, str)})


def files_of(top: str) -> list[Path]:
    """The source files of a top-level package that could not be imported: the one that mends it is among them."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None:
        return []
    places = spec.submodule_search_locations
    found = [Path(spec.origin)] if not places and spec.has_location and spec.origin else []
    for place in places or ():
        found += itertools.islice(Path(place).rglob("*.py"), _MOST_WATCHED)
    return sorted(found)


@contextlib.contextmanager
def anew(given: Iterable[EntryPoint]) -> Iterator[None]:
    """Have the packages of these entry points imported afresh in the block. If it raises, what was loaded before is
    there again. Whoever holds something of the old code goes on with that."""
    tops = {_top(point) for point in given}
    held = dict(_modules_of(tops))
    for name, module in held.items():
        del sys.modules[name]
        _forget_bytecode(module)
    importlib.invalidate_caches()
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    except BaseException:
        for name, _ in _modules_of(tops):
            del sys.modules[name]
        sys.modules.update(held)
        raise
    finally:
        sys.dont_write_bytecode = writes


def _forget_bytecode(module: ModuleType) -> None:
    """A file that is edited twice within a second may look like the one that its bytecode was made of."""
    file = getattr(module, "__file__", None)
    if isinstance(file, str) and file.endswith(".py"):
        with contextlib.suppress(OSError, NotImplementedError):
            Path(importlib.util.cache_from_source(file)).unlink()


def _top(point: EntryPoint) -> str:
    return point.module.partition(".")[0]


def _modules_of(tops: set[str]) -> list[tuple[str, ModuleType]]:
    """Those of these top-level packages; never Omium's own, which is no plugin."""
    return [
        (name, module)
        for name, module in list(sys.modules.items())
        if (top := name.partition(".")[0]) in tops and top != "omium" and module is not None
    ]
