"""Ship journalled events to the sinks, each at least once.

Comes after the journals and before MongoDB and the Evidently service. A position advances after
its sink has stored the batch. A relay that is killed sends the batch again, and the sink keeps it
once. Each sink has a thread and positions of its own, so a sink that is down delays no other.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

from config.runtime.heartbeat import touch_heartbeat
from config.runtime.logs import where
from prediction_service.journal import (
    JournalUnavailable,
    StoredEvent,
    acquire_lock,
    folder_bytes,
    is_live,
    journal_paths,
    newest,
    read_after,
    remove_journal,
)
from prediction_service.relay.progress import Progress
from prediction_service.settings import Settings
from prediction_service.sinks.base import EventsRejected, Sink, SinkUnavailable
from prediction_service.sinks.evidently import EvidentlySink
from prediction_service.sinks.mongodb import MongoSink

log = structlog.get_logger(__name__)

FIRST_BACKOFF_S = 0.2
MAINTENANCE_PERIOD_S = 5.0
LABEL_STATES_PERIOD_S = 30.0


def make_sinks(settings: Settings) -> list[Sink]:
    """Return the configured sinks."""
    sinks: list[Sink] = []
    if settings.mongodb_address:
        sinks.append(MongoSink.of(settings))
    if settings.evidently_address:
        sinks.append(EvidentlySink.of(settings))
    return sinks


class Shipper:
    """The way of every journal's events to one sink."""

    def __init__(self, sink: Sink, progress: Progress, settings: Settings) -> None:
        self.sink = sink
        self.progress = progress
        self.settings = settings
        self._finished: set[Path] = set()  # journals without a writer that are shipped completely

    def run(self, stop: threading.Event) -> None:
        """Ship until `stop`, and then the backlog."""
        failures = 0
        while not stop.is_set():
            try:
                pause_s = 0 if self.ship() else self.settings.relay_batch_age_s
                if failures:
                    log.info("sink_available", sink=self.sink.name)
                failures = 0
            except SinkUnavailable as err:
                failures += 1
                report = log.warning if failures == 1 else log.debug
                report("sink_unavailable", sink=self.sink.name, error=str(err))
                pause_s = backoff_s(failures, self.settings.relay_backoff_max_s)
            except Exception as err:  # pylint: disable=broad-exception-caught
                failures += 1  # an unexpected error must not end the thread
                log.error("shipping_failed", sink=self.sink.name, error=where(err))
                pause_s = backoff_s(failures, self.settings.relay_backoff_max_s)
            stop.wait(pause_s)
        self.drain()

    def ship(self) -> bool:
        """Ship up to one batch of each journal; return whether more is waiting.

        Raises SinkUnavailable; batches that were shipped before stay shipped.
        """
        more = False
        for path in journal_paths(self.settings.journal_path):
            if path not in self._finished:
                more = self._ship_batch(path) or more
        return more

    def drain(self) -> None:
        """Ship the backlog until RELAY_DRAIN_S have passed or the sink fails."""
        deadline = time.monotonic() + self.settings.relay_drain_s
        try:
            while time.monotonic() < deadline and self.ship():
                pass
        except SinkUnavailable as err:
            log.warning("stopped_with_backlog", sink=self.sink.name, error=str(err))

    def _ship_batch(self, path: Path) -> bool:
        """Ship the next batch of a journal; return whether it was a full one."""
        after = self.progress.position(self.sink.name, path.stem)
        try:
            has_ended = not is_live(path)  # before reading: nothing is appended after this
            events = read_after(path, after, self.settings.relay_batch_rows)
        except (JournalUnavailable, OSError) as err:  # the other journals are still shipped
            log.warning("journal_unreadable", path=str(path), error=str(err))
            return False
        if events:
            deliver(self.sink, events, partial(self._keep_rejected, path.stem))
            self.progress.advance(self.sink.name, path.stem, events[-1].seq)
        is_full = len(events) == self.settings.relay_batch_rows
        if has_ended and not is_full:
            self._finished.add(path)
        return is_full

    def _keep_rejected(self, journal: str, event: StoredEvent, reason: str) -> None:
        # The reason is stored with the event and not logged: it may quote a record.
        log.error("event_rejected", sink=self.sink.name, journal=journal, seq=event.seq)
        self.progress.add_dead_letter(self.sink.name, journal, event, reason, time.time())


def deliver(
    sink: Sink, events: list[StoredEvent], on_rejected: Callable[[StoredEvent, str], None]
) -> None:
    """Store a batch; split a rejected batch in halves until only the bad events are rejected.

    `on_rejected` receives each of them with the reason. Raises SinkUnavailable.
    """
    try:
        sink.send(events)
    except EventsRejected as err:
        if len(events) == 1:
            on_rejected(events[0], str(err))
            return
        middle = len(events) // 2
        deliver(sink, events[:middle], on_rejected)
        deliver(sink, events[middle:], on_rejected)


def backoff_s(failures: int, max_s: float) -> float:
    """Return a pause that doubles with each failure in a row, with jitter to spread out relays."""
    pause_s = min(max_s, FIRST_BACKOFF_S * 2 ** min(failures - 1, 20))
    return pause_s * random.uniform(0.5, 1.0)


def remove_shipped(settings: Settings, progress: Progress, now: float) -> None:
    """Remove journals without a writer that are empty, or old enough and stored in every sink.

    If the journals have reached half of JOURNAL_MAX_MB, their age does not matter. Without MongoDB
    the journals are the log of record: only empty ones are removed. `now` is Unix time.
    """
    root, sinks = settings.journal_path, settings.sinks
    is_crowded = folder_bytes(root) > settings.journal_max_mb * 10**6 / 2
    before = now - (0 if is_crowded else settings.journal_retention_s)
    for path in journal_paths(root):
        try:
            has_ended = not is_live(path)  # before reading: nothing is appended after this
            seq, newest_at = newest(path)
            shipped = min((progress.position(sink, path.stem) for sink in sinks), default=0)
            is_shipped = bool(settings.mongodb_address) and shipped >= seq and newest_at < before
            if has_ended and (seq == 0 or is_shipped):
                remove_journal(path)
                progress.forget(path.stem)
                log.info("journal_removed", path=str(path))
        except (JournalUnavailable, OSError) as err:
            log.warning("journal_not_removed", path=str(path), error=str(err))


def count_labels(sinks: Sequence[Sink], progress: Progress) -> None:
    """Record the label counts of the log of record for the gauges."""
    for sink in sinks:
        if isinstance(sink, MongoSink):
            try:
                progress.set_label_states(sink.label_states())
            except SinkUnavailable as err:
                log.debug("labels_not_counted", error=str(err))


def run_maintenance(
    settings: Settings,
    sinks: Sequence[Sink],
    progress: Progress,
    stop: threading.Event,
    period_s: float = MAINTENANCE_PERIOD_S,
) -> None:
    """Remove shipped journals and count labels until `stop`."""
    count_labels_at = 0.0
    while not stop.is_set():
        try:
            remove_shipped(settings, progress, time.time())
            if time.monotonic() >= count_labels_at:
                count_labels(sinks, progress)
                count_labels_at = time.monotonic() + LABEL_STATES_PERIOD_S
        except Exception as err:  # pylint: disable=broad-exception-caught
            # A full disk takes no progress, but the sinks go on, and that makes room.
            log.error("maintenance_failed", error=where(err))
        touch_heartbeat(settings.heartbeat_file)
        stop.wait(period_s)


def wait_for_turn(settings: Settings, stop: threading.Event) -> int | None:
    """Return the lock of the folder's only relay; a second relay waits here as a stand-by.

    Returns None if `stop` comes first.
    """
    root = settings.journal_path
    root.mkdir(parents=True, exist_ok=True)
    warned = False
    while not stop.is_set():
        try:
            return acquire_lock(root / "relay.lock")
        except BlockingIOError:
            if not warned:
                log.warning("another_relay_is_running", root=str(root))
            warned = True
            touch_heartbeat(settings.heartbeat_file)
            stop.wait(1)
    return None


def run(settings: Settings, stop: threading.Event) -> None:
    """Ship until `stop`, then drain within RELAY_DRAIN_S."""
    lock = wait_for_turn(settings, stop)
    if lock is None:
        return
    progress = Progress(settings.journal_path)
    sinks = make_sinks(settings)
    # Daemon threads: a sink that does not respond must not outlast the deadline.
    threads = [
        threading.Thread(target=Shipper(sink, progress, settings).run, args=[stop], daemon=True)
        for sink in sinks
    ]
    for thread in threads:
        thread.start()
    log.info("relay_started", sinks=list(settings.sinks))
    run_maintenance(settings, sinks, progress, stop)
    deadline = time.monotonic() + settings.relay_drain_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    log.info("relay_stopped", drained=not any(thread.is_alive() for thread in threads))
    for sink in sinks:
        sink.close()
    os.close(lock)
