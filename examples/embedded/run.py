"""A workflow within a program: `python run.py DIRECTORY`, where the directory keeps the runs."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from omium.orchestration.definition.build import workflow
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.ids import Principal
from omium.orchestration.service.views import Caller, RunView
from omium.server.app import open_omium
from omium.server.config import Config
from omium.server.project import Project

project = Project("embedded", directory=Path(__file__).parent)
TEXTS = ["the hen sings", "the cock crows at dawn", "silence"]


@project.function
async def count(text: str) -> int:
    """Words of a text."""
    return len(text.split())


@project.function
async def add(numbers: list[int]) -> int:
    """Their sum."""
    return sum(numbers)


def definition() -> WorkflowDef:
    """Counts the words of some texts, and asks whether to go on."""
    texts = {"type": "array", "items": {"type": "string"}}
    wf = workflow("words", inputs={"type": "object", "required": ["texts"], "properties": {"texts": texts}})
    counted = wf.function("count", use="count", for_each=wf.inputs.texts, with_={"text": "${{ item }}"})
    gate = wf.approval("gate", prompt="Add them up?", min_assurance="none", show=counted.output, needs=counted)
    total = wf.function("total", use="add", needs=[counted, gate], with_={"numbers": counted.output})
    return wf.build(outputs={"words": total.output})


async def main(directory: Path) -> RunView:
    """Run it, or go on with the run that an earlier process began: the idempotency key makes it the same one."""
    project.workflow(definition())
    config = Config(project, database=str(directory / "omium.db"), home=directory)
    async with open_omium(config) as core:
        me = Caller(Principal("user:me"), project.id)
        run = await core.run_workflow(me, "words", {"texts": TEXTS}, idempotency_key="words of today")
        run = await core.wait(me, run.id, 60, detail=True)
        for approval in run.approvals:
            print(f"{approval.question} yes")
            await core.decide(me, approval.id, "approve", assurance="none")
        return await core.wait(me, run.id, 60, detail=True)


if __name__ == "__main__":
    ended = anyio.run(main, Path(sys.argv[1]).absolute())
    print(f"{ended.id} {ended.status}: {ended.output!r}")
