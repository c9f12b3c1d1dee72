"""The model that a worker predicts with: loaded from the model folder, replaced when it changes.

A request takes `model` once and keeps it to the end, so a replacement fails no request.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import structlog

from config.contract import Contract
from config.model_registry import GRAPH
from prediction_service.models.model_folder import Current, ModelFolder, Rejection, Status
from prediction_service.models.package import ModelRejected, check_digest

log = structlog.get_logger(__name__)

RETRY_S = 30  # the cause of a rejection may pass, such as a lack of memory

M = TypeVar("M")  # a loaded model


class LiveModel(Generic[M]):
    """The newest usable model of a folder. The last good one stays if a newer one is rejected."""

    def __init__(
        self,
        folder: ModelFolder,
        contract: Contract,
        load: Callable[[Path, str, Contract], M],
        on_loaded: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start without a model.

        `load` makes a model of package, version and contract, or raises ModelRejected. `on_loaded`
        receives each version that becomes live.
        """
        self.folder = folder
        self.contract = contract
        self.load = load
        self.on_loaded = on_loaded
        self.model: M | None = None
        self.rejected: Rejection | None = None
        self._seen: Current | None = None
        self._retry_at = 0.0

    def refresh(self) -> None:
        """Load the version that `current.json` names, unless it is live or was just rejected."""
        try:
            current = self.folder.current()
        except (OSError, msgspec.DecodeError) as err:
            self.rejected = Rejection("?", f"current.json cannot be read: {err}")
            return
        if current is None or (current == self._seen and not self._retry_due()):
            return
        self._seen, self._retry_at = current, time.monotonic() + RETRY_S
        try:
            self.model = self._load(current)
            self.rejected = None
            self.on_loaded(current.version)
            log.info("model_live", version=current.version, run_id=current.run_id)
        except ModelRejected as err:
            self.rejected = Rejection(current.version, str(err))
            log.error("model_rejected", version=current.version, error=str(err))

    def status(self) -> Status | None:
        """Return the follower's last report; None if there is none or it cannot be read."""
        try:
            return self.folder.status()
        except (OSError, msgspec.DecodeError):
            return None

    def rejection(self) -> Rejection | None:
        """Return the version that this worker or the follower rejects, if any."""
        status = self.status()
        return self.rejected or (status.refused if status else None)

    def follow(self, period_s: float) -> threading.Thread:
        """Refresh every `period_s` seconds in a thread, until the process ends."""
        thread = threading.Thread(target=self._keep_refreshing, args=[period_s], daemon=True)
        thread.start()
        return thread

    def _keep_refreshing(self, period_s: float) -> None:
        while True:
            time.sleep(period_s)
            try:
                self.refresh()
            except Exception:  # pylint: disable=broad-exception-caught
                log.exception("model_refresh_failed")  # must not end the thread

    def _retry_due(self) -> bool:
        return self.rejected is not None and time.monotonic() >= self._retry_at

    def _load(self, current: Current) -> M:
        package = self.folder.package(current)
        check_digest(package / GRAPH, current.sha256)
        return self.load(package, current.version, self.contract)
