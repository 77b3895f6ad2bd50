"""Makes a version live: copies it below `releases/` and points `current` at it, in one step.

Takes the directory to deploy and the one that is live, reads {"version"}, prints {"version", "before"}.
"""

import json
import shutil
import sys
from pathlib import Path

source, live = Path(sys.argv[1]), Path(sys.argv[2])
version = json.load(sys.stdin)["version"]
current = live / "current"
before = current.read_text("utf-8") if current.exists() else None
shutil.copytree(source, live / "releases" / version, dirs_exist_ok=True)
following = current.with_name("current.new")
following.write_text(version, "utf-8")
following.replace(current)
print(json.dumps({"version": version, "before": before}))
