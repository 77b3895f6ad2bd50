"""Fills the version into each page of `pages/` and writes it to `public/`. Reads {"version"}, prints {"pages"}."""

import json
import sys
from pathlib import Path

version = json.load(sys.stdin)["version"]
public = Path("public")
public.mkdir(exist_ok=True)
pages = sorted(Path("pages").glob("*.html"))
for page in pages:
    (public / page.name).write_text(page.read_text("utf-8").replace("{version}", version), "utf-8")
print(json.dumps({"pages": [page.name for page in pages]}))
