"""The client against real servers: one over HTTP that goes away and comes back, and one of its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest

from omium.clients.remote import OmiumClient
from omium.orchestration.errors import OmiumError
from tests.http.process import Place, place  # noqa: F401 - a fixture
from tests.interaction.test_stdio import appears, end_workers

pytestmark = pytest.mark.anyio


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])
