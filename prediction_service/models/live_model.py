"""The model that a worker serves: loaded from the model folder, swapped when it changes.

A request takes `served.model` once and keeps it to the end, so a swap fails no request.
"""

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from config.contract import Contract
from config.model_registry import GRAPH
from prediction_service.predict.model import Model, ModelRefused, check_digest
from prediction_service.models.model_folder import Current, ModelFolder, Refusal, Status

log = logging.getLogger(__name__)

RETRY_S = 30  # a refusal may come from a passing fault, such as memory or the file system


class ServedModel:
    """Holds the newest usable model of a folder; the last good one stays if a new one is not.

    `on_served` is told each version from which requests are answered.
    """

    def __init__(
        self,
        folder: ModelFolder,
        contract: Contract,
        on_served: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.contract = contract
        self.on_served = on_served
        self.model: Model | None = None
        self.refused: Refusal | None = None
        self._seen: Current | None = None
        self._retry_at = 0.0

    def refresh(self) -> None:
        """Loads what `current.json` names, unless it is served or was refused just now."""
        try:
            current = self.folder.current()
        except (OSError, msgspec.DecodeError) as err:
            self.refused = Refusal("?", f"current.json cannot be read: {err}")
            return
        if current is None or (current == self._seen and not self._retry_due()):
            return
        self._seen, self._retry_at = current, time.monotonic() + RETRY_S
        try:
            self.model = self._load(current)
            self.refused = None
            self.on_served(current.version)
            log.info("model served version=%s run_id=%s", current.version, current.run_id)
        except ModelRefused as err:
            self.refused = Refusal(current.version, str(err))
            log.error("model refused version=%s reason=%s", current.version, err)

    def status(self) -> Status | None:
        """The follower's last report; None if it never ran, or where it cannot be read."""
        try:
            return self.folder.status()
        except (OSError, msgspec.DecodeError):
            return None

    def refusal(self) -> Refusal | None:
        """The version that this worker or the follower refuses, if there is one."""
        status = self.status()
        return self.refused or (status.refused if status else None)

    def follow(self, period_s: float) -> threading.Thread:
        """Refreshes every `period_s` seconds in a thread of this process, until it ends."""
        thread = threading.Thread(target=self._keep_refreshing, args=[period_s], daemon=True)
        thread.start()
        return thread

    def _keep_refreshing(self, period_s: float) -> None:
        while True:
            time.sleep(period_s)
            try:
                self.refresh()
            except Exception:  # pylint: disable=broad-exception-caught
                log.exception("model folder not read")  # a surprise must not end the thread

    def _retry_due(self) -> bool:
        return self.refused is not None and time.monotonic() >= self._retry_at

    def _load(self, current: Current) -> Model:
        package = self.folder.package(current)
        check_digest(package / GRAPH, current.sha256)
        return Model(package, current.version, self.contract)
