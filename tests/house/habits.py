"""House habits that a program can check, each a function from a parsed file to findings.

A rule names the files that it covers and the few that are exempt. `tests/house/test_habits.py` runs every rule over the
tree, and over planted snippets that it must and must not find.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOMS

FILE_LINES = 600
FUNCTION_LINES = 100
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Source:
    """A file: its path relative to the checkout, its text, and its syntax tree."""

    path: str
    text: str
    tree: ast.Module


@dataclass(frozen=True, slots=True)
class Rule:
    """`find` yields (line, what is wrong); it is asked only for files under `covers` and not under `exempt`."""

    name: str
    covers: tuple[str, ...]
    exempt: tuple[str, ...]
    instead: str
    find: Callable[[Source], Iterator[tuple[int, str]]]

    def applies(self, path: str) -> bool:
        def under(places: tuple[str, ...]) -> bool:
            return any(path == place or path.startswith(f"{place}/") for place in places)

        return under(self.covers) and not under(self.exempt)


def check(rule: Rule, path: Path, text: str) -> list[str]:
    """Findings of one rule in one file, as `path:line: what (what to do instead)`."""
    if not rule.applies(path.as_posix()):
        return []
    source = Source(path.as_posix(), text, ast.parse(text, str(path)))
    return [f"{path}:{line}: {what} ({rule.instead})" for line, what in rule.find(source)]


def dotted(node: ast.expr) -> str:
    """`a.b.c` for a chain of names, an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def imported(source: Source) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, wherever it stands; `from a import b` yields `a` and `a.b`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def origins(source: Source) -> dict[str, str]:
    """Local name -> what it was imported as: `from os import system as run` gives `run: os.system`."""
    names: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            names |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}
    return names


def calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    """Every call, with the full name of what is called as far as imports tell; an empty name for an expression."""
    names = origins(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            first, dot, rest = dotted(node.func).partition(".")
            yield node, names.get(first, first) + dot + rest


def imports_of(*modules: str) -> Callable[[Source], Iterator[tuple[int, str]]]:
    def find(source: Source) -> Iterator[tuple[int, str]]:
        lines = set()
        for line, name in imported(source):
            if line not in lines and any(name == module or name.startswith(f"{module}.") for module in modules):
                lines.add(line)
                yield line, f"imports {name}"

    return find


def state_changes(source: Source) -> Iterator[tuple[int, str]]:
    """`x.state = ...`, `setattr(x, "state", ...)`, `replace(x, state=...)`, and the same with `status`."""
    words = {"state", "status"}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in words:
            yield node.lineno, f"assigns to .{node.attr}"
        elif isinstance(node, ast.Call):
            name = dotted(node.func).rpartition(".")[2]
            if name in {"setattr", "__setattr__"}:
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and argument.value in words:
                        yield node.lineno, f"sets {argument.value!r} by {name}"
            elif name in {"replace", "_replace"}:
                for keyword in node.keywords:
                    if keyword.arg in words:
                        yield node.lineno, f"replaces {keyword.arg}"


PROCESS_MODULES = imports_of("subprocess", "multiprocessing", "pty", "asyncio.subprocess")
PROCESS_CALL = re.compile(
    r"(os\.(system|popen|fork|forkpty|posix_spawnp?|exec[lv]p?e?|spawn[lv]p?e?)"
    r"|asyncio\.create_subprocess_(exec|shell)|anyio\.(open_process|run_process|to_process\.run_sync)"
    r"|concurrent\.futures\.(process\.)?ProcessPoolExecutor|(\w+\.)*(subprocess_exec|subprocess_shell))"
)


def processes(source: Source) -> Iterator[tuple[int, str]]:
    yield from PROCESS_MODULES(source)
    for node, name in calls(source):
        if PROCESS_CALL.fullmatch(name):
            yield node.lineno, f"calls {name}"


def shells(source: Source) -> Iterator[tuple[int, str]]:
    for node, name in calls(source):
        if name in {"os.system", "os.popen"} or name.endswith("subprocess_shell"):
            yield node.lineno, f"calls {name}"
        for keyword in node.keywords:
            if keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield node.lineno, "passes shell="


SQL_MODULES = imports_of("sqlalchemy", "sqlite3", "aiosqlite", "asyncpg", "alembic", "psycopg")
SQL_TEXT = re.compile(
    r"\s*(SELECT\s[^;]*\s(FROM|AS)\s|SELECT\s+\d|INSERT\s+(OR\s+\w+\s+)?INTO\s|UPDATE\s+\S+\s+SET\s|DELETE\s+FROM\s"
    r"|(CREATE|DROP|ALTER)\s+(TABLE|(UNIQUE\s+)?INDEX|VIEW|TRIGGER)\s|PRAGMA\s|BEGIN\s+IMMEDIATE|FOR\s+UPDATE\b)"
)


def docstrings(tree: ast.Module) -> set[int]:
    """Identities of the constants that are docstrings (or other bare strings, which do nothing)."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def sql(source: Source) -> Iterator[tuple[int, str]]:
    yield from SQL_MODULES(source)
    prose = docstrings(source.tree)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            match = SQL_TEXT.match(node.value)
            if match:
                yield node.lineno, f"contains SQL: {' '.join(match.group().split())}"


def prints(source: Source) -> Iterator[tuple[int, str]]:
    for node, name in calls(source):
        if name in {"print", "builtins.print"}:
            yield node.lineno, "calls print"


def long_files(source: Source) -> Iterator[tuple[int, str]]:
    lines = source.text.count("\n")
    if lines > FILE_LINES:
        yield lines, f"has {lines} lines, more than {FILE_LINES}"


def long_functions(source: Source) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines, more than {FUNCTION_LINES}"


def sleeps(source: Source) -> Iterator[tuple[int, str]]:
    """Sleeps on real time, but for sleep(0), short steps of a polling loop, and lines that say why they must."""
    loops = [node for node in ast.walk(source.tree) if isinstance(node, ast.While)]
    polls = {id(call) for loop in loops for call in ast.walk(loop)}
    lines = source.text.splitlines()
    for node, name in calls(source):
        if name not in {"time.sleep", "asyncio.sleep", "anyio.sleep"}:
            continue
        seconds = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        short = isinstance(seconds, int | float) and (seconds == 0 or (seconds <= POLL_SECONDS and id(node) in polls))
        if not short and "# real time: " not in lines[node.lineno - 1]:
            yield node.lineno, f"calls {name}"


EVERYWHERE = (*ROOMS, "examples", "tests")

RULES = (
    Rule(
        "state-changes-in-the-fold",
        ROOMS,
        ("orchestration/log/fold.py",),
        "the state of a run or node changes by folding an event; give another kind of state another name",
        state_changes,
    ),
    Rule(
        "processes-under-supervision",
        ROOMS,
        ("clients/processes", "clients/functions", "clients/workspaces/git.py", "server/detach.py"),
        "start it through the supervisor in clients/processes",
        processes,
    ),
    Rule("no-shell", EVERYWHERE, (), "pass an argument vector", shells),
    Rule("sql-in-storage", ROOMS, ("storage",), "put it behind a method of the store", sql),
    Rule(
        "no-pickle",
        EVERYWHERE,
        (),
        "encode with orchestration/values.py",
        imports_of("pickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "jsonpickle"),
    ),
    Rule("no-print", ROOMS, (), "log it, or write it with click.echo: standard output carries the protocol", prints),
    Rule("short-files", EVERYWHERE, (), "a room that grew this long is two rooms", long_files),
    Rule("short-functions", EVERYWHERE, (), "name its steps", long_functions),
    Rule(
        "no-sleep-in-tests",
        ("tests",),
        ("tests/bench",),
        "wait for an event within anyio.fail_after, or say why on the line: `# real time: ...`",
        sleeps,
    ),
    Rule("rooms-by-their-full-name", EVERYWHERE, (), "import omium.<room>", imports_of(*ROOMS)),
)


# A path of the machine that somebody worked on. Written in pieces, so that this file passes its own rule.
MACHINE_PATH = re.compile(r"(?<![\w.~/})\]*$-])/(?:" + "|".join(("work", "root", "home")) + r")/[\w.]")


def machine_paths(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        match = MACHINE_PATH.search(line)
        if match:
            yield number, line.strip()[:100]
