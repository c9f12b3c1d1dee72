"""Follows the registry's alias into the model folder: `python -m prediction_service.follower`.

Comes after training's promotion and before the workers, which only ever see a folder with checked
models. A version that this service cannot serve is refused and reported; the last good one stays,
also while the registry is away.
"""

import logging
import signal
import threading
from pathlib import Path

import msgspec

from config.contract import Contract, load_contract
from config.runtime.heartbeat import touch_heartbeat
from config.model_registry import GRAPH
from config.runtime.logs import set_up
from config.runtime.settings import exit_with_message, read_settings
from prediction_service.model import Model, ModelRefused, check_digests
from prediction_service.model_folder import Current, ModelFolder, Refusal, Status
from prediction_service.registry import Registry, RegistryUnavailable, Wanted
from prediction_service.settings import Settings

log = logging.getLogger(__name__)

KEPT_VERSIONS = 3


class Follower:
    """Brings what the registry wants into a model folder, once per call of `follow`."""

    def __init__(self, registry: Registry, folder: ModelFolder, contract: Contract) -> None:
        self.registry = registry
        self.folder = folder
        self.contract = contract
        self._refused: tuple[Wanted, Refusal] | None = None  # until restart: a download each

    def follow(self) -> None:
        """Asks the registry, fetches and checks a new version, and reports what it saw."""
        try:
            wanted = self.registry.wanted()
            self._bring(wanted)
            status = Status("reached", self._refusal_of(wanted))
        except RegistryUnavailable as err:
            status = Status(str(err), self._refused[1] if self._refused else None)
        if status != self.folder.status():
            log.info("registry seen registry=%s refused=%s", status.registry, status.refused)
        self.folder.report(status)

    def _bring(self, wanted: Wanted) -> None:
        if self._is_current(wanted) or self._refusal_of(wanted):
            return
        try:
            current = self._fetch(wanted)
        except ModelRefused as err:
            self._refused = wanted, Refusal(wanted.version, str(err))
            log.error("model refused version=%s reason=%s", wanted.version, err)
            return
        self.folder.switch(current)
        self._refused = None
        log.info("model current version=%s run_id=%s", current.version, current.run_id)
        self.folder.remove_old(KEPT_VERSIONS)

    def _is_current(self, wanted: Wanted) -> bool:
        try:
            current = self.folder.current()
        except msgspec.DecodeError:
            return False  # damaged: fetched anew
        return (
            current is not None
            and current.version == wanted.version
            and current.run_id == wanted.run_id  # another registry counts from 1 again
            and wanted.digests.get(GRAPH) == current.sha256
        )

    def _refusal_of(self, wanted: Wanted) -> Refusal | None:
        if self._refused and self._refused[0] == wanted:
            return self._refused[1]
        return None

    def _fetch(self, wanted: Wanted) -> Current:
        """Downloads, checks and puts a version in place. Raises ModelRefused."""
        with self.folder.workspace() as workspace:
            package = self.registry.download(wanted, Path(workspace))
            check_digests(package, wanted.digests)
            Model(package, wanted.version, self.contract)
            self.folder.adopt(package, wanted.version)
        return Current(wanted.version, wanted.run_id, wanted.version, wanted.digests[GRAPH])


def main() -> None:
    """The follower as a process; TERM and INT end it."""
    settings = read_settings(Settings)
    set_up(settings.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    registry = Registry(settings.mlflow_tracking_uri, settings.model_run_id)
    follower = Follower(registry, ModelFolder(settings.model_path), load_contract())
    while not stop.is_set():
        try:
            follower.follow()
        except Exception:  # pylint: disable=broad-exception-caught
            log.exception("following failed")  # a surprise must not end the process
        touch_heartbeat(settings.heartbeat_file)
        stop.wait(settings.follow_period_s)


if __name__ == "__main__":
    exit_with_message(main)
