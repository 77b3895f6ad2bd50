"""A framework in a process of its own passes the contract; what it says is checked, and nothing of it is left."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from omium.clients.agents.adapter import Adapter
from omium.clients.agents.secrets import Secrets
from omium.clients.agents.spec import AgentDef, ModelSpec, WorkerSpec
from omium.clients.agents.worker_adapter.adapter import WorkerAdapter
from omium.orchestration.engine.failures import classify, describe
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_calls import Suspended
from tests.agents.attempts import Ledger
from tests.agents.contract import Contract, Tools

STAND_IN = Path(__file__).with_name("stand_in.py")


def worker(script: Path, **options: Any) -> WorkerSpec:
    return WorkerSpec(Path(sys.executable), script, script.parent, **options)


class TestWorker(Contract):
    def agent(self, turns: Sequence[Mapping[str, Any]], directory: Path, **options: Any) -> AgentDef:
        model = ModelSpec("scripted", "stand-in", options={"turns": list(turns)})
        return AgentDef("tester", framework="worker", worker=worker(STAND_IN), model=model, **options)

    def adapter(self) -> Adapter:
        return WorkerAdapter()


def written(directory: Path, text: str) -> AgentDef:
    script = directory / "script.py"
    script.write_text(text)
    return AgentDef("tester", framework="worker", worker=worker(script), tools=("add",))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\ndef run(task): os._exit(7)", "code 7"),
        ("import os, signal\ndef run(task): os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("def run(task): raise ValueError('the crew fell out')", "the crew fell out"),
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("def run(task): task._ask({'type': 'nonsense'})", "protocol"),
        ("def run(task): task._ask({'type': 'calls', 'calls': [['add']]})", "protocol"),
        ("def run(task): task._ask({'type': 'used', 'model': 99})", "did not begin"),
        ("import sys\ndef run(task): sys.stderr.write('the reason'); sys.stderr.flush(); sys.exit(2)", "the reason"),
    ],
)
async def test_a_worker_that_fails_says_how(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(OmiumError) as caught:
        await TestWorker().executor(written(tmp_path, text)).run("tester", {}, Ledger().attempt())
    assert said in caught.value.message and caught.value.code == "process_failed"


@pytest.mark.anyio
async def test_a_question_ends_the_process_and_its_answer_starts_another(tmp_path: Path) -> None:
    text = (
        "import os\n"
        "def run(task):\n"
        "    open('pids', 'a').write(f'{os.getpid()}\\n')\n"
        "    return task.call('add', {'a': 1, 'b': 1}) + task.human('Which?', ['a', 'b']) + task.human('And?')\n"
    )
    ledger, tools = Ledger(), Tools()
    executor = TestWorker().executor(written(tmp_path, text), tools=tools)
    for _ in range(2):
        with pytest.raises(Suspended):
            await executor.run("tester", {}, ledger.attempt(resumed=ledger.count > 0))
        assert not any(psutil.pid_exists(int(pid)) for pid in (tmp_path / "pids").read_text().split())
        ledger.answer("a")
    done = await executor.run("tester", {}, ledger.attempt(resumed=True))
    assert done.output == "2<human>a</human><human>a</human>"
    assert len(tools.made) == 1 and len((tmp_path / "pids").read_text().split()) == 3


@pytest.mark.anyio
async def test_a_refusal_of_a_provider_is_classified(tmp_path: Path) -> None:
    agent = TestWorker().agent([{"status": 429}], tmp_path)
    with pytest.raises(OmiumError) as caught:
        await TestWorker().executor(agent).run("tester", {}, Ledger().attempt())
    assert classify(caught.value) == "rate_limited" and describe(caught.value)["reason"] == "model_call"


@pytest.mark.anyio
async def test_only_named_variables_reach_it_and_their_values_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "other-canary-1")
    agent = written(
        tmp_path, "import os\ndef run(task): return os.environ['MY_KEY'] + str(os.environ.get('OTHER_KEY'))"
    )
    assert agent.worker is not None
    agent = replace(agent, worker=replace(agent.worker, pass_env=("MY_KEY",)))
    secrets = Secrets({"MY_KEY": "sk-canary-12345"})
    done = await TestWorker().executor(agent, secrets=secrets).run("tester", {}, Ledger().attempt())
    assert done.output == "[secret]None"


def test_a_declaration_is_checked(tmp_path: Path) -> None:
    check = WorkerAdapter().check
    assert [key for key, _ in check(AgentDef("a"))] == ["worker"]
    spec = WorkerSpec(tmp_path / "python", tmp_path / "script.py", tmp_path, ("PYTHONPATH",))
    found = [key for key, _ in check(AgentDef("a", worker=spec, factory="a:b"))]
    assert found == ["worker.script", "worker.python", "worker.pass_env", "factory"]
    assert check(AgentDef("a", worker=worker(STAND_IN))) == []
