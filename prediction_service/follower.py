"""Copy the production model to the model folder: `python -m prediction_service.follower`.

Comes after training's promotion and before the request workers, which see only a folder with
checked models. A version that this service cannot serve is rejected and reported. The last good one
stays, also while the registry is down.
"""

import signal
import threading
from pathlib import Path

import structlog

from config.contract import Contract, load_contract
from config.model.package import check_digests, reason_of
from config.model_registry import GRAPH
from config.runtime.heartbeat import touch_heartbeat
from config.runtime.logs import set_up
from config.runtime.settings import exit_with_message, read_settings
from prediction_service.backoff import Backoff
from prediction_service.models.model_folder import (
    REACHED,
    UNREADABLE,
    Current,
    ModelFolder,
    Rejection,
    Status,
)
from prediction_service.models.registry import Registry, RegistryUnavailable, Wanted
from prediction_service.predict.model import Model
from prediction_service.settings import Settings

log = structlog.get_logger(__name__)

KEPT_VERSIONS = 3


class Follower:
    """A model folder that follows a registry, one step with each call of `follow`."""

    def __init__(self, registry: Registry, folder: ModelFolder, contract: Contract) -> None:
        self.registry = registry
        self.folder = folder
        self.contract = contract
        self._rejected: tuple[Wanted, Rejection] | None = None
        self._backoff = Backoff()  # each attempt is a download

    def follow(self) -> None:
        """Ask the registry, download and check a new version, and report the result."""
        try:
            wanted = self.registry.wanted()
        except Exception as err:  # pylint: disable=broad-exception-caught  # also MLflow's own
            self._report(describe(err))
        else:
            if self._rejected and self._rejected[0] != wanted:
                self._rejected = None
            self._fetch_if_new(wanted)
            self._report(REACHED)

    def _report(self, registry: str) -> None:
        status = Status(registry, self._rejected[1] if self._rejected else None)
        if status != self.folder.status():
            report = log.info if status.registry == REACHED else log.warning
            report("registry_status", registry=status.registry, rejected=status.rejected)
        self.folder.report(status)

    def _fetch_if_new(self, wanted: Wanted) -> None:
        if self._is_current(wanted) or not self._backoff.is_over(wanted):
            return
        try:
            current = self._fetch(wanted)
            self.folder.switch(current)
        except Exception as err:  # pylint: disable=broad-exception-caught  # also a surprise
            self._backoff.start(wanted)
            self._rejected = wanted, Rejection(wanted.version, describe(err))
            log.error("model_rejected", version=wanted.version, error=describe(err))
            return
        self._rejected = None
        log.info("model_current", version=current.version, run_id=current.run_id)
        self.folder.remove_old(KEPT_VERSIONS)

    def _is_current(self, wanted: Wanted) -> bool:
        try:
            current = self.folder.current()
        except UNREADABLE:
            return False  # fetched again
        return (
            current is not None
            and current.version == wanted.version
            and current.run_id == wanted.run_id  # another registry starts again at version 1
            and wanted.digests.get(GRAPH) == current.sha256
        )

    def _fetch(self, wanted: Wanted) -> Current:
        """Download and check a version, and put it in place."""
        with self.folder.workspace() as workspace:
            package = self.registry.download(wanted, Path(workspace))
            check_digests(package, wanted.digests)
            Model(package, wanted.version, self.contract)
            self.folder.adopt(package, wanted.version)
        return Current(wanted.version, wanted.run_id, wanted.version, wanted.digests[GRAPH])


def describe(err: Exception) -> str:
    """Return an error for the report."""
    return str(err) if isinstance(err, RegistryUnavailable) else reason_of(err)


def main() -> None:
    """Run the follower until SIGTERM or SIGINT."""
    settings = read_settings(Settings)
    set_up(settings.log_format, settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    registry = Registry(settings.mlflow_tracking_uri, settings.model_run_id)
    follower = Follower(registry, ModelFolder(settings.model_path), load_contract())
    while not stop.is_set():
        try:
            follower.follow()
        except Exception:  # pylint: disable=broad-exception-caught
            log.exception("follow_failed")  # must not end the process
        touch_heartbeat(settings.heartbeat_file)
        stop.wait(settings.follow_period_s)


if __name__ == "__main__":
    exit_with_message(main)
