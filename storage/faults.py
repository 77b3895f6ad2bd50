"""Which writes of an owner may not be made because one before them could not."""

from __future__ import annotations

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Fence, RunId
from omium.orchestration.ports import Write

_OF_THE_STORE = frozenset({"storage_unavailable", "integrity"})


class Faults:
    """What the owner of a run writes next may follow from what it wrote before: the start of a node from the end of
    another. So when one of its writes cannot be made, the full disk or damage being at fault and no rule of the log,
    then none is made that was submitted before the owner had heard of that (`Write.faults`)."""

    def __init__(self) -> None:
        self._heard: dict[RunId, tuple[Fence, int]] = {}  # how many its owner must have heard of
        self.any = self._heard  # whether there are any

    def check(self, write: Write) -> None:
        """Raises `storage_unavailable` for a write that must not be made."""
        if not self._heard or write.fence is None:
            return
        fence, needed = self._heard.get(write.run_id, (write.fence, 0))
        if fence == write.fence and write.faults < needed:
            raise OmiumError(
                "storage_unavailable", f"what run {write.run_id} has written before could not be stored.", "Try again."
            )

    def made(self, write: Write) -> None:
        """It is durable. What was submitted earlier has been refused by now, since nothing overtakes."""
        if self._heard and write.fence is not None:
            self._heard.pop(write.run_id, None)

    def failed(self, write: Write, error: BaseException) -> None:
        """It could not be made."""
        refused = isinstance(error, OmiumError) and error.code not in _OF_THE_STORE
        if write.fence is not None and not refused:
            self._heard[write.run_id] = (write.fence, write.faults + 1)
