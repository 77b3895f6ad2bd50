"""A core over a database, runs that a hand steers, and a person at the keys of `omium top`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from textual.pilot import Pilot
from textual.widgets import Static

from omium.clients.processes.listing import ProcessView
from omium.orchestration.definition.schema import read_workflow
from omium.orchestration.gates.budgets import BudgetRule
from omium.orchestration.ids import ApprovalId, NodeId, Principal, RunId, WorkerId, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob, Write
from omium.orchestration.service.catalog import Catalog
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.orchestration.values import encode
from omium.server.terminal.app import Top
from omium.server.terminal.board import Board
from omium.server.terminal.tables import Rows
from omium.storage.sqlite.store import SqliteStore
