"""Whether a project is still the one that a process has loaded."""

from __future__ import annotations

import time
from pathlib import Path

from omium.orchestration.definition.document import read_file, validate
from omium.orchestration.errors import OmiumError
from omium.orchestration.stamps import look
from omium.server.config import FILE_NAME, Config


class ProjectStands:
    """Called, it says so. A file that is broken, or away, stands for nothing new: what was loaded goes on."""

    def __init__(self, config: Config) -> None:
        self._file = file_of(config)
        self._loaded = self._content()
        self._seen, self._settled = self._look()
        self._stands = True

    def __call__(self) -> bool:
        seen, settled = self._look()
        if seen != self._seen or not self._settled:
            self._seen, self._settled = seen, settled
            self._stands = self._content() in (self._loaded, None)
        return self._stands

    def _look(self) -> tuple[object, bool]:
        return look([self._file], time.time_ns()) if self._file is not None else (None, True)

    def _content(self) -> bytes | None:
        """The file, if it is one that can be loaded."""
        if self._file is None:
            return None
        from omium.server.project_file import ProjectFile

        try:
            content = self._file.read_bytes()
            validate(read_file(self._file), ProjectFile)
        except (OSError, OmiumError):
            return None
        return content


def file_of(config: Config) -> Path | None:
    """The file that says what the project is; None for one that was put together in Python."""
    start = config.start
    return start / FILE_NAME if start is not None and start.is_dir() else start
