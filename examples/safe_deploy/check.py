"""Looks for links between pages that lead nowhere. Takes a directory, prints {"pages", "broken"}."""

import json
import re
import sys
from pathlib import Path

pages = sorted(Path(sys.argv[1]).glob("*.html"))
names = {page.name for page in pages}
links = {link for page in pages for link in re.findall(r'href="([^":]+)"', page.read_text("utf-8"))}
print(json.dumps({"pages": len(pages), "broken": sorted(links - names)}))
