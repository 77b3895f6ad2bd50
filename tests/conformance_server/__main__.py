"""`python -m tests.conformance_server --port N`: serves until it is stopped. Port 0 takes a free one; the line
`ready URL` on standard output says where."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import anyio
from mcp.shared.exceptions import MCPDeprecationWarning

from tests.conformance_server.server import serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    # The suite asks for logging and sampling too, which the protocol has deprecated.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    with tempfile.TemporaryDirectory() as directory:
        anyio.run(serve, parser.parse_args().port, Path(directory), lambda url: print(f"ready {url}", flush=True))


if __name__ == "__main__":
    main()
