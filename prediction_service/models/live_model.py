"""The model that a worker predicts with: loaded from the model folder, replaced when it changes.

A request takes `model` once and keeps it to the end, so a replacement fails no request.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from config.contract import Contract
from config.model.package import ModelRejected, check_digest, reason_of
from config.model_registry import GRAPH
from prediction_service.backoff import Backoff
from prediction_service.models.model_folder import UNREADABLE, Current, ModelFolder, Rejection

log = structlog.get_logger(__name__)

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

        `load` makes a model of package, version and contract. Every error that it raises rejects
        the version. `on_loaded` receives each version that becomes live.
        """
        self.folder = folder
        self.contract = contract
        self.load = load
        self.on_loaded = on_loaded
        self.model: M | None = None
        self.rejected: Rejection | None = None
        self._live: Current | None = None
        self._backoff = Backoff()

    def refresh(self) -> None:
        """Load the version that `current.json` names, unless it is live or was just rejected."""
        try:
            current = self.folder.current()
        except UNREADABLE as err:
            self._reject("?", ModelRejected(f"current.json cannot be read: {err}"))
            return
        if current == self._live:
            self.rejected = None
        elif current is not None and self._backoff.is_over(current):
            self._replace(current)

    def rejection(self) -> Rejection | None:
        """Return the version that this worker or the follower rejects, if any."""
        status = self.folder.status()
        return self.rejected or (status.rejected if status else None)

    def follow(self, period_s: float) -> None:
        """Refresh every `period_s` seconds in a thread, until the process ends."""
        threading.Thread(target=self._keep_refreshing, args=[period_s], daemon=True).start()

    def _keep_refreshing(self, period_s: float) -> None:
        while True:
            time.sleep(period_s)
            try:
                self.refresh()
            except Exception:  # pylint: disable=broad-exception-caught
                log.exception("model_refresh_failed")  # must not end the thread

    def _replace(self, current: Current) -> None:
        try:
            self.model = self._load(current)
        except Exception as err:  # pylint: disable=broad-exception-caught  # also a surprise
            self._backoff.start(current)
            self._reject(current.version, err)
            return
        self._live, self.rejected = current, None
        self.on_loaded(current.version)
        log.info("model_live", version=current.version, run_id=current.run_id)

    def _reject(self, version: str, err: Exception) -> None:
        rejection = Rejection(version, reason_of(err))
        if rejection != self.rejected:
            log.error("model_rejected", version=version, error=rejection.reason)
        self.rejected = rejection

    def _load(self, current: Current) -> M:
        package = self.folder.package(current)
        check_digest(package / GRAPH, current.sha256)
        return self.load(package, current.version, self.contract)
