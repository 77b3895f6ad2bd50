"""Spans of runs, held against an exporter in memory, and the ids that logs and spans share."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, RunId, Seq, new_id
from omium.orchestration.log.events import Event, EventType
from omium.server.config import load_config
from omium.server.logs import set_up_logging
from omium.server.telemetry.exporting import provider_of
from omium.server.telemetry.ids import span_id, trace_id, trace_of_text
from omium.server.telemetry.settings import Telemetry
from omium.server.telemetry.tracing import _WAITING, Tracing, traced
from tests.interaction.studio import ADA, HOSTILE, Studio, open_studio

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def traced_studio(path: Path, sample: float = 1.0) -> AsyncIterator[tuple[Studio, Tracing, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    settings = Telemetry("http://localhost:4318", "omium-test", sample)
    provider = provider_of(settings, "9.9", "default", [SimpleSpanProcessor(exporter)])
    async with open_studio(path) as studio, traced(studio.store, provider.get_tracer("omium")) as tracing:
        yield studio, tracing, exporter
    provider.shutdown()


async def finished(studio: Studio, workflow: str, **inputs: object) -> RunId:
    view = await studio.core.run_workflow(ADA, workflow, inputs)
    with anyio.fail_after(30):
        await studio.core.wait(ADA, view.id, 25)
    return view.id


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_a_run_is_a_trace_of_nodes_and_attempts(tmp_path: Path) -> None:
    async with traced_studio(tmp_path) as (studio, tracing, exporter):
        run = await finished(studio, "chain")
        await tracing.drain()
        spans = exporter.get_finished_spans()
    assert sorted(span.name for span in spans) == [
        "attempt 1", "attempt 1", "attempt 1", "invoke_workflow chain", "node a", "node b", "node c",
    ]  # fmt: skip
    top = by_name(exporter)["invoke_workflow chain"]
    node = by_name(exporter)["node b"]
    attempt = next(span for span in spans if span.name == "attempt 1" and attributes(span)["omium.node.id"] == "b")
    assert {span.context.trace_id for span in spans} == {trace_id(run)}
    assert top.parent is None and top.context.span_id == span_id(run)
    assert node.parent is not None and node.parent.span_id == top.context.span_id
    assert attempt.parent is not None and attempt.parent.span_id == node.context.span_id
    assert len({span.context.span_id for span in spans}) == len(spans)
    assert attributes(top)["gen_ai.workflow.name"] == "chain"
    assert attributes(node)["omium.node.kind"] == "function" and attributes(node)["omium.node.use"] == "echo"
    assert top.resource.attributes["service.name"] == "omium-test"
    assert top.start_time is not None and node.start_time is not None and node.end_time is not None
    assert top.start_time <= node.start_time <= node.end_time <= (top.end_time or 0)


async def test_a_failure_is_an_error_on_attempt_node_and_run(tmp_path: Path) -> None:
    async with traced_studio(tmp_path) as (studio, tracing, exporter):
        await finished(studio, "failing")
        await tracing.drain()
        spans = by_name(exporter)
    for name in ("attempt 1", "node bad", "invoke_workflow failing"):
        assert spans[name].status.status_code is StatusCode.ERROR, name
        assert attributes(spans[name])["error.type"]


async def test_contents_are_in_no_span(tmp_path: Path) -> None:
    async with traced_studio(tmp_path) as (studio, tracing, exporter):
        await finished(studio, "chain", word="canary-of-contents")
        await finished(studio, "gated-hostilely", text=HOSTILE)
        await tracing.drain()
        told = " ".join(span.to_json() for span in exporter.get_finished_spans())
    assert "canary-of-contents" not in told and "evil" not in told


async def test_a_call_and_a_question_are_spans(tmp_path: Path) -> None:
    async with traced_studio(tmp_path) as (studio, tracing, exporter):
        await finished(studio, "unsafe")
        asked = await finished(studio, "gated")
        (question,) = await studio.core.list_approvals(ADA)
        await studio.core.decide(ADA, question.id, "approve", assurance="elicited")
        with anyio.fail_after(30):
            while (await studio.core.get_run(ADA, asked)).status != "completed":
                await anyio.sleep(0.01)
        await tracing.drain()
        spans = by_name(exporter)
    call = spans["function call"]
    assert call.parent is not None
    assert attributes(call)["omium.effect.outcome"] == "succeeded" or attributes(call)["omium.effect.outcome"]
    assert attributes(spans["approval"])["omium.approval.decision"] == "approve"


def event(_type: EventType, run: RunId, at_us: int, /, **data: object) -> Event:
    return Event(run, Seq(1), _type, at_us, Principal("engine"), data, b"", b"")


async def test_tools_and_models_follow_the_conventions(tmp_path: Path) -> None:
    """Events as the engine writes them for external tools and models."""
    async with traced_studio(tmp_path) as (studio, tracing, exporter):
        run = await finished(studio, "echo", value=1)
        at = {"node": "echo", "generation": 0, "attempt": 1}
        for number, (kind, detail) in enumerate(
            [("tool", {"tool": "search", "server": "web"}), ("model", {"tool": "gpt-5-mini"})]
        ):
            more = {"effect": f"eff_{number}", "call": f"call_{number}", "kind": kind, "on_unknown": "ask"}
            tracing.hear(
                run,
                [
                    event(EventType.EFFECT_INTENDED, run, 1_000_000, **at, **more, detail=detail),
                    event(EventType.EFFECT_SETTLED, run, 1_500_000, effect=f"eff_{number}", outcome="done"),
                ],
            )
        usage = {"tokens": 7, "input_tokens": 3, "output_tokens": 4, "cost_usd": 0.5, "model": "m", "secret": "no"}
        tracing.hear(run, [event(EventType.NODE_COMPLETED, run, 9, **at, output="d", size=1, usage=usage)])
        await tracing.drain()
        spans = by_name(exporter)
    tool, model = spans["execute_tool web/search"], spans["chat gpt-5-mini"]
    assert attributes(tool)["gen_ai.operation.name"] == "execute_tool"
    assert attributes(tool)["gen_ai.tool.name"] == "web/search"
    assert attributes(tool)["gen_ai.tool.call.id"] == "call_0"
    assert (tool.end_time or 0) - (tool.start_time or 0) == 500_000_000
    assert attributes(model)["gen_ai.request.model"] == "gpt-5-mini"
    node = attributes([span for span in exporter.get_finished_spans() if span.name == "node echo"][-1])
    assert node["gen_ai.usage.input_tokens"] == 3 and node["gen_ai.usage.output_tokens"] == 4
    assert node["omium.cost_usd"] == 0.5 and "secret" not in str(node)


async def test_the_share_that_is_sampled_is_of_whole_traces(tmp_path: Path) -> None:
    async with traced_studio(tmp_path, sample=0.0) as (studio, tracing, exporter):
        await finished(studio, "chain")
        await tracing.drain()
        assert exporter.get_finished_spans() == ()


async def test_a_burst_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="omium")
    caplog.set_level(logging.WARNING)
    async with traced_studio(tmp_path) as (_, tracing, __):
        run = RunId(new_id("run"))
        at = {"node": "a", "generation": 0, "attempt": 1}
        tracing.hear(run, [event(EventType.NODE_STARTED, run, 1, **at)] * (_WAITING + 5))
        await tracing.drain()
    assert "5 events came faster" in caplog.text


def test_ids_follow_from_the_run_and_are_never_zero() -> None:
    run = new_id("run")
    assert trace_id(run) == trace_id(run) != trace_id(new_id("run"))
    assert 0 < trace_id(run) < 2**128 and 0 < span_id(run, "a") < 2**64
    assert trace_of_text(f"the run {run} was resumed, {run}@7") == f"{trace_id(run):032x}"
    assert trace_of_text(f"{run} and {new_id('run')}") is None
    assert trace_of_text("nothing") is None


@pytest.fixture
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_log_lines_name_the_trace_and_hide_secrets(root_logger: None) -> None:
    stream, run = io.StringIO(), new_id("run")
    set_up_logging("info", stream=stream, environ={"OMIUM_LOG": "json"})
    logging.getLogger("omium.test").info("run %s asked with token=canary-secret-0123456789", run)
    line = json.loads(stream.getvalue())
    assert line["trace_id"] == f"{trace_id(run):032x}"
    assert "canary-secret" not in stream.getvalue()


def test_it_is_declared(tmp_path: Path) -> None:
    file = tmp_path / "omium.yaml"
    file.write_text("project: x\ntelemetry: {otlp: 'http://localhost:4318', sample: 0.5}\n")
    assert load_config(tmp_path, {}).telemetry == Telemetry("http://localhost:4318", "omium", 0.5)
    for bad in ("{}", "{otlp: localhost}", "{otlp: 'http://x:1', sample: 2}", "{otlp: 'http://x:1', colour: red}"):
        file.write_text(f"project: x\ntelemetry: {bad}\n")
        with pytest.raises(OmiumError) as refusal:
            load_config(tmp_path, {})
        assert refusal.value.code == "invalid_definition"
