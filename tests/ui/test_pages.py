"""What the pages say, to a browser without scripts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import quote

import anyio
import pytest

from omium.orchestration.ids import ApprovalId, RunId
from omium.storage import maintenance
from tests.ui.house import HOSTILE, House, form_of, furnish, words

pytestmark = pytest.mark.anyio
PATIENCE_S = 90
VIEWS = ("", "/timeline", "/history", "/branches", "/events", "/calls", "/files", "/audit")


class _Elements(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Elements()
    parser.feed(page)
    return parser.found


def assert_harmless(page: str) -> None:
    """Nothing on the page is more than text, and nothing in it comes from elsewhere."""
    for tag, attributes in elements(page):
        assert tag not in ("img", "iframe", "object", "embed", "style", "base"), tag
        assert not any(name.startswith("on") or name in ("style", "srcdoc") for name in attributes), attributes
        if tag == "script":
            assert (attributes.get("src") or "").startswith("/static/")
        for name in ("href", "src", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("/", "#")) or value == "", (name, value)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", page)


async def test_every_view_of_every_kind_of_run_is_a_page(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        ids = await furnish(house)
        runs = [ids[name] for name in ("done", "branch", "failed", "asking", "hostile", "wide", "slow")]
        paths = [f"/runs/{run}{view}" for run in runs for view in VIEWS] + ["/budgets", "/servers", "/policy"]
        paths += ["/", "/?children=1", "/approvals", f"/approvals/{ids['approval']}", "/workflows", "/workflows/wide"]
        paths += [f"/compare?a={ids['done']}&b={ids['branch']}", "/compare", "/sign-in"]
        paths += [f"/runs/{ids['done']}?node=write", f"/runs/{ids['wide']}?open=fan", f"/runs/{ids['done']}?node=nix"]
        async with house.browser() as browser:
            for path in paths:
                page = await browser.open(path)
                assert_harmless(page)
                assert page.count("<h1") == 1, path


async def test_an_erased_output_is_said_to_be_erased(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = (await house.run("echo", {"value": "ada"})).id
        (node,) = (await house.core.get_run(house.owner, run, detail=True)).nodes
        await maintenance.erase(maintenance.keeper(house.core.store), run, "ticket 7")
        async with house.browser() as browser:
            assert words(await browser.open(f"/runs/{run}")).count("it was erased") == 1
            assert words(await browser.open(f"/runs/{run}?node={node.id}")).count("it was erased") >= 2
            for path in ("output", f"output?node={node.id}"):
                assert "it was erased" in await browser.open(f"/runs/{run}/{path}", 404)


async def test_headers_let_nothing_foreign_in(house: House) -> None:
    async with house.browser() as browser:
        answer = await browser.http.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        style = next(a["href"] for t, a in elements(answer.text) if t == "link" and a.get("rel") == "stylesheet")
        static = await browser.http.get(str(style))
        assert static.status_code == 200
        assert "immutable" in static.headers["cache-control"]
        assert (await browser.http.get(str(style).replace("omium.css", "..%2Flook.py"))).status_code == 404


async def test_an_empty_list_says_what_fills_it(house: House) -> None:
    async with house.browser() as browser:
        assert "omium run breaks" in words(await browser.open("/"))
        assert "Nothing waits for you" in words(await browser.open("/approvals"))


async def test_the_list_is_narrowed_by_its_address_and_read_in_pages(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        for number in range(52):
            await house.core.run_workflow(house.owner, "echo", {"value": 1}, title=f"number {number}", start=False)
        failed = await house.run("breaks", {"text": "no luck"}, title="the odd one")
        async with house.browser() as browser:
            first = await browser.open("/")
            assert "the odd one" in first
            assert "no luck" in first
            older = re.search(r'href="([^"]*)" rel="next"', first)
            assert older is not None
            second = await browser.open(older[1].replace("&amp;", "&"))
            assert "number 0" in second
            assert "number 51" not in second
            only = await browser.open("/", status="failed", q="odd")
            assert only.count("data-row ") == 1
            assert failed.id in only
            assert "No run is like that" in words(await browser.open("/", q="100%_nothing"))
            assert "the odd one" in await browser.open("/?status=bogus&status=failed")


async def test_the_reason_of_a_failure_comes_first(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.run("link-check", title="Nightly link check")
        async with house.browser() as browser:
            page = await browser.open(f"/runs/{run.id}")
            said = words(page)
            assert said.index("Why it failed") < said.index("Graph Timeline")
            assert "404 https://example.org/gone" in said  # what the program wrote to standard error
            panel = words(await browser.open(f"/runs/{run.id}", node="visit"))
            assert "after 2 attempts" in panel
            assert "attempt 1" in panel
            assert "attempt 2" in panel


async def test_a_node_shows_inputs_output_attempts_calls_and_what_it_said(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        ids = await furnish(house)
        async with house.browser() as browser:
            wrote = words(await browser.open(f"/runs/{ids['done']}", node="write"))
            assert '"Faster start in 1.3 (plain)."' in wrote
            assert "# Version 1.3" in wrote
            assert "reading the last notes" in wrote
            assert "post to the site" in words(await browser.open(f"/runs/{ids['done']}", node="publish"))
            whole = await browser.http.get(f"/runs/{ids['done']}/output", params={"node": "write", "download": "1"})
            assert whole.headers["content-type"] == "text/plain; charset=utf-8"
            assert whole.headers["content-disposition"].startswith("attachment")
            assert whole.text.startswith("# Version 1.3")


async def test_hostile_text_is_only_text_everywhere(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.run("hostile", {"text": HOSTILE}, title=HOSTILE)
        await house.run("breaks", {"text": HOSTILE}, title=HOSTILE)
        await house.core.checkpoint(house.owner, run.id, "odd", note="<i>odd</i>")
        async with house.browser() as browser:
            paths = [f"/runs/{run.id}{view}" for view in VIEWS] + ["/", "/approvals", f"/?q={quote(HOSTILE)}"]
            paths += [
                f"/runs/{run.id}?node=say",
                f"/runs/{run.id}?node={quote(HOSTILE)}",
                f"/?workflow={quote(HOSTILE)}",
            ]
            for path in paths:
                assert_harmless(await browser.open(path))
            assert "&lt;script&gt;alert(2)" in await browser.open("/")
            missing = await browser.open(f"/workflows/{quote(HOSTILE, safe='')}", 404)
            assert_harmless(missing)


async def test_ten_megabytes_are_cut_and_can_be_had_as_a_whole(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        large = "<b>x</b>\u202e" * 1_000_000
        run = await house.run("echo", {"value": large})
        async with house.browser() as browser:
            page = await browser.open(f"/runs/{run.id}", node="echo")
            assert len(page) < 200_000
            assert_harmless(page)
            whole = await browser.http.get(f"/runs/{run.id}/output", params={"node": "echo"})
            assert whole.headers["content-security-policy"].startswith("sandbox")
            assert whole.text == large.replace("\u202e", "\\u202e")


async def test_what_is_not_there_is_a_page_with_code_and_way_on(house: House) -> None:
    async with house.browser() as browser:
        for path in ("/runs/nope", "/runs/run_01M7YBWZNM9W5HZ8CD51FNJBPD", "/approvals/x", "/nothing/here"):
            page = await browser.open(path, 404)
            assert "not_found" in words(page)
            assert "/static/" in page
        machine = await browser.http.get("/runs/nope", headers={"accept": "application/json"})
        assert machine.json()["error"]["code"] == "not_found"
        assert "Traceback" not in machine.text


async def test_checkpoints_are_walked_along_with_state_files_and_changes(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        ids = await furnish(house)
        found = await house.core.list_checkpoints(house.owner, RunId(ids["done"]))
        write = next(one for one in found.checkpoints if one.node == "write")
        async with house.browser() as browser:
            page = await browser.open(f"/runs/{ids['done']}/history", at=write.seq)
            said = words(page)
            assert "NOTES.md" in said
            assert "+# Version 1.3" in said
            assert "published" in said  # the label on the line
            text = await browser.open(f"/runs/{ids['done']}/file", path="NOTES.md", at=write.seq)
            assert text.startswith("# Version 1.3")
            await browser.open(f"/runs/{ids['done']}/file", 404, path="../../etc/passwd", at=write.seq)


async def test_two_branches_stand_side_by_side(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        ids = await furnish(house)
        async with house.browser() as browser:
            assert "A warmer tone" in words(await browser.open(f"/runs/{ids['done']}/branches"))
            page = await browser.open("/compare", a=ids["done"], b=ids["branch"][-8:])
            said = words(page)
            assert "They part at summarize[0]" in said
            assert '+"Faster start in 1.3 (warm)."' in said
            assert '"plain"' in said
            assert '"warm"' in said
            await browser.open("/compare", 404, a=ids["done"], b="zzzzzzzz")


async def test_a_large_fan_is_one_box_until_it_is_opened(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.run("wide", {"items": list(range(60))})
        async with house.browser() as browser:
            page = await browser.open(f"/runs/{run.id}")
            assert page.count("data-node=") == 3
            assert "60 of 60 done" in words(page)
            opened = await browser.open(f"/runs/{run.id}", open="fan")
            assert opened.count("data-node=") == 63
            data = (await browser.http.get(f"/runs/{run.id}/graph.json", params={"open": "fan"})).json()
            assert len(data["nodes"]) == 63
            assert len(data["lines"]) == 1 + 60 + 60


async def test_a_question_shows_all_that_is_needed(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        _, approval = await house.asking(version="1.4")
        async with house.browser() as browser:
            page = await browser.open(f"/approvals/{approval}")
            said = words(page)
            for expected in ("Publish the notes of 1.4?", "# Version 1.4", "Expires", "a rejection fails", "Approve"):
                assert expected in said
            fields = form_of(page, f"/approvals/{approval}/decide")
            assert set(fields) == {"proof", "key", "binding"}
            view = await house.core.get_approval(house.owner, ApprovalId(approval))
            assert view.status == "pending"
            await house.core.decide(house.owner, ApprovalId(approval), "approve", assurance="elicited")
            decided = words(await browser.open(f"/approvals/{approval}"))
            assert "approve by" in decided
            assert "xpire" not in decided  # what was decided neither expires nor has expired
