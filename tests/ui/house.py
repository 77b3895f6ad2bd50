"""A project with runs of every kind behind a real server, and people who look at its pages.

    python -m tests.ui.house

plays it on a free port until it is interrupted, for people to look at.
"""

from __future__ import annotations

import html
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import httpx2

from omium.orchestration.ids import Principal, RunId
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller, RunView
from omium.server.app import open_omium
from omium.server.config import Config, load_config
from omium.server.http.access import identify
from omium.server.http.app import HttpApp, HttpSettings, build_app
from omium.server.http.serving import listen, serve_app, url_of
from omium.server.identity.authority import AnyOf, Authority, OpenLoopback
from omium.server.identity.limits import RateLimits, RequestLimits
from omium.server.identity.tokens import Tokens, create_token
from omium.server.mcp import build_server

HOSTILE: Final = "<img src=x onerror=alert(1)><script>alert(2)</script> \x1b[31mred\x07 \u202egnihtyreve\u2066 z\u200bw"

PROJECT: Final = """
project: paper
functions:
  collect: {ref: "work:collect", host: async}
  summarize: {ref: "work:summarize", host: async}
  write: {ref: "work:write", host: async}
  publish: {ref: "work:publish", host: async, on_unknown: ask}
  echo: {ref: "work:echo", host: async}
  fail: {ref: "work:fail", host: async}
  hold: {ref: "work:hold", host: async}
  shout: {ref: "work:shout", host: async}
budgets:
  month: {period: month, usd: 50, calls: 1000}
commands:
  check: {argv: ["sh", "-c", "echo 12 links; echo 'docs/start.md: 404 https://example.org/gone' >&2; exit 3"]}
workspaces:
  desk: {source: desk}
workflows:
- name: release-notes
  description: Collects changes, writes the notes, asks, publishes.
  inputs: {type: object, properties: {version: {type: string, default: "1.4"}, tone: {type: string, default: plain}}}
  nodes:
  - {id: collect, kind: function, use: collect, with: {version: "${{ inputs.version }}"}}
  - id: summarize
    kind: function
    use: summarize
    needs: collect
    for_each: "${{ nodes.collect.output }}"
    with: {change: "${{ item }}", tone: "${{ inputs.tone }}"}
  - id: write
    kind: function
    use: write
    needs: summarize
    workspace: write
    with: {version: "${{ inputs.version }}", parts: "${{ nodes.summarize.output }}"}
  - {id: check, kind: function, use: echo, needs: write, with: {value: {links: 12, broken: 0}}}
  - id: review
    kind: approval
    needs: [write, check]
    approval:
      prompt: "Publish the notes of ${{ inputs.version }}?"
      show: {notes: "${{ nodes.write.output }}", links: "${{ nodes.check.output }}"}
      options: [approve, reject]
  - {id: publish, kind: function, use: publish, needs: review, with: {text: "${{ nodes.write.output }}"}}
  outputs: "${{ nodes.publish.output }}"
- name: link-check
  description: Follows every link of the documentation.
  nodes:
  - {id: list, kind: function, use: echo, with: {value: [a, b, c]}}
  - id: visit
    kind: cli
    use: check
    needs: list
    retry: {max_attempts: 2, initial: 10ms, on: [unknown, api_error, file_not_found]}
  - {id: report, kind: function, use: echo, needs: visit, with: {value: done}}
- name: hostile
  inputs: {type: object, required: [text], properties: {text: {type: string}}}
  nodes:
  - {id: say, kind: function, use: echo, with: {value: {plain: "${{ inputs.text }}"}}}
  - {id: log, kind: function, use: shout, needs: say, with: {text: "${{ inputs.text }}"}}
  - {id: ask, kind: approval, needs: log, approval: {prompt: "${{ inputs.text }}", show: "${{ inputs.text }}"}}
- name: breaks
  inputs: {type: object, required: [text], properties: {text: {type: string}}}
  nodes:
  - {id: bad, kind: function, use: fail, with: {text: "${{ inputs.text }}"}}
- name: strict
  nodes:
  - {id: ask, kind: approval, approval: {prompt: "Delete the old site?", min_assurance: out_of_band}}
- name: slow
  nodes:
  - {id: first, kind: function, use: echo, with: {value: 1}}
  - {id: hold, kind: function, use: hold, needs: first}
  - {id: last, kind: function, use: echo, needs: hold, with: {value: 3}}
- name: wide
  nodes:
  - {id: items, kind: function, use: echo, with: {value: "${{ inputs.items }}"}}
  - id: fan
    kind: function
    use: echo
    needs: items
    for_each: "${{ nodes.items.output }}"
    with: {value: "${{ item }}"}
  - {id: end, kind: function, use: echo, needs: fan, with: {value: done}}
- name: echo
  nodes:
  - {id: echo, kind: function, use: echo, with: {value: "${{ inputs.value }}"}}
  outputs: "${{ nodes.echo.output }}"
"""
WORK: Final = """
import asyncio
from pathlib import Path

GATE = Path(__file__).with_name("go")


async def collect(version):
    return [f"faster start in {version}", "fewer questions", "dark pages"]


async def summarize(change, tone):
    return f"{change.capitalize()} ({tone})."


async def write(version, parts, ctx):
    await ctx.progress("reading the last notes")
    text = f"# Version {version}\\n\\n" + "".join(f"- {part}\\n" for part in parts)
    (ctx.workspace / "NOTES.md").write_text(text)
    (ctx.workspace / "site").mkdir(exist_ok=True)
    (ctx.workspace / "site" / "index.html").write_text(f"<h1>{version}</h1>")
    await ctx.progress(f"wrote {len(text)} characters")
    return text


async def publish(text, ctx):
    async def send():
        return {"url": "https://example.org/notes"}
    return await ctx.effect("post to the site", send)


async def echo(value=None):
    return value


async def shout(text, ctx):
    await ctx.progress(text)
    return text


async def fail(text):
    raise ValueError(text)


async def hold():
    while not GATE.exists():
        await asyncio.sleep(0.02)
    return "released"
"""


@dataclass
class House:
    """A running server over the project. owner: who asks without a credential."""

    directory: Path
    config: Config
    core: Core
    app: HttpApp
    url: str
    owner: Caller
    people: dict[str, str] = field(default_factory=dict)

    async def token(self, role: str, name: str, *, sees: Literal["own", "project"] | None = None) -> str:
        made = await create_token(self.core.store, self.owner, self.core.clock, role, name=name, sees=sees)
        return made.secret

    def release(self) -> None:
        """Let the nodes that hold go on."""
        (self.directory / "go").touch()

    async def run(self, workflow: str, inputs: Mapping[str, Any] | None = None, **more: Any) -> RunView:
        """A new run, once nothing goes on in it."""
        workspace = "desk" if workflow == "release-notes" else None
        started = await self.core.run_workflow(self.owner, workflow, inputs or {}, workspace=workspace, **more)
        return await self.core.wait(self.owner, started.id, 60, detail=True)

    async def asking(self, **inputs: Any) -> tuple[RunId, str]:
        """A run that waits, and its question."""
        run = await self.run("release-notes", inputs)
        assert run.status == "waiting_approval", (run.status, run.error)
        return run.id, run.approvals[0].id

    def browser(self, **headers: str) -> Browser:
        return Browser(self.url, headers)


class Browser:
    """What a browser without scripts does: keeps cookies, says where it is, sends forms with all their fields."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self.http = httpx2.AsyncClient(base_url=url, headers={"accept": "text/html", **headers}, timeout=60)
        self.at = "/"

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def open(self, path: str, expected: int = 200, /, **params: Any) -> str:
        """The text of a page, which must answer so."""
        answer = await self.http.get(path, params=params or None, follow_redirects=True)
        assert answer.status_code == expected, (path, answer.status_code, words(answer.text)[:600])
        self.at = str(answer.url)
        return str(answer.text)

    async def send(self, page: str, to: str, /, **fields: Any) -> httpx2.Response:
        """Send the form of a page that goes there, with these fields changed; follows to where it leads."""
        return await self.post(to, {**form_of(page, to), **fields})

    async def post(self, action: str, data: Mapping[str, Any], **headers: str) -> httpx2.Response:
        given = {"origin": self.url, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self.http.post(action, data=dict(data), headers=given, follow_redirects=True)

    async def sign_in(self, token: str) -> httpx2.Response:
        return await self.post("/sign-in", {"token": token, "next": "/"})


_FORM = re.compile(r"<form\b([^>]*)>(.*?)</form>", re.DOTALL)
_INPUT = re.compile(r"<input\b([^>]*)>")
_PAIR = re.compile(r'([a-z-]+)="([^"]*)"')


def form_of(page: str, action: str) -> dict[str, str]:
    """The hidden fields of the first form that goes there."""
    for attributes, body in _FORM.findall(page):
        if dict(_PAIR.findall(attributes)).get("action") == html.escape(action):
            inputs = [dict(_PAIR.findall(one)) for one in _INPUT.findall(body)]
            return {one["name"]: html.unescape(one["value"]) for one in inputs if one.get("type") == "hidden"}
    raise AssertionError(f"no form goes to {action}: {re.findall('action=[^ >]*', page)}")


def words(page: str) -> str:
    """What a page says, without its elements."""
    body = page.partition("<main")[2] or page
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@asynccontextmanager
async def open_house(
    directory: Path, *, open_to: bool = True, read_only: bool = False, limits: RequestLimits | None = None
) -> AsyncIterator[House]:
    """open_to: whether whoever comes without a credential is the owner."""
    (directory / "desk").mkdir(parents=True, exist_ok=True)
    (directory / "desk" / "README.md").write_text("The desk.\n")
    module = f"work_{uuid.uuid4().hex}"  # a process loads a module once, whichever house it is of
    (directory / "omium.yaml").write_text(PROJECT.replace('"work:', f'"{module}:'))
    (directory / f"{module}.py").write_text(WORK)
    environment = {"OMIUM_PROJECT": str(directory), "OMIUM_HOME": str(directory / "home"), "OMIUM_DURABILITY": "normal"}
    config = load_config(environ=environment)
    owner = Caller(Principal("user:ada"), config.project.id)
    settings = HttpSettings(heartbeat_s=15, grace_s=1, read_only=read_only)
    async with open_omium(config) as core:
        tokens = Tokens(core.store, owner.project, core.clock)
        authority: Authority = AnyOf([tokens, OpenLoopback(owner)]) if open_to else tokens
        rates = RateLimits(limits or RequestLimits(), core.clock.monotonic)
        app = build_app(core, build_server(core, identify), authority, rates, settings)
        with listen("127.0.0.1", 0) as bound:
            ready = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve_app, app, bound, settings, ready.set)
                await ready.wait()
                try:
                    yield House(directory, config, core, app, url_of(bound), owner)
                finally:
                    app.ending.begin()


async def furnish(house: House) -> dict[str, str]:
    """Runs of every kind; their ids by name."""
    core, owner = house.core, house.owner
    ids: dict[str, str] = {}
    done_id, approval = await house.asking(version="1.3", tone="plain")
    found = await core.list_approvals(owner, run_id=done_id)
    await core.decide(owner, found[0].id, "approve", feedback="Good, ship it.", assurance="elicited")
    await core.wait(owner, done_id, 60)
    ids["done"] = done_id
    await core.checkpoint(owner, done_id, "published", note="What the site shows.")
    positions = await core.list_checkpoints(owner, done_id)
    early = next(one for one in positions.checkpoints if one.node == "collect")
    ids["at"] = str(next(one.seq for one in positions.checkpoints if one.node == "write"))
    warmer = {"inputs": {"tone": "warm"}}
    plan = await core.preview_branch(owner, done_id, early.seq, warmer)
    fork = await core.branch(
        owner, done_id, early.seq, name="warmer", hypothesis="A warmer tone gets read by more people.",
        overrides=warmer, plan_token=plan.plan_token,
    )  # fmt: skip
    ids["branch"] = fork.run.id
    await core.wait(owner, fork.run.id, 60)
    ids["failed"] = (await house.run("link-check", title="Nightly link check")).id
    asking, approval = await house.asking(version="1.4", tone="plain")
    ids["asking"], ids["approval"] = asking, approval
    ids["strict"] = (await house.run("strict", title="Retire the old site")).id
    ids["hostile"] = (await house.run("hostile", {"text": HOSTILE}, title=HOSTILE)).id
    ids["wide"] = (await house.run("wide", {"items": list(range(60))}, title="Sixty at once")).id
    ids["slow"] = (await core.run_workflow(owner, "slow", {}, title="Import the archive")).id
    return ids


async def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        async with open_house(Path(directory)) as house:
            ids = await furnish(house)
            print(house.url, ids, flush=True)
            await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main)
