"""Ships journalled events to the sinks: `python -m prediction_service.relay`.

Comes after the journals and before MongoDB and the Evidently service. At least once: a cursor
moves after its sink has stored the batch, so a relay that dies sends a batch again and the sink
keeps it once. Each sink has a thread and cursors of its own; one that is down delays nobody.
What every sink has is removed after a time, unless the journal is the only log of record.
"""

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from config.runtime.heartbeat import touch_heartbeat
from config.runtime.logs import set_up, where
from config.runtime.settings import exit_with_message, read_settings
from prediction_service.cursors import Cursors
from prediction_service.evidently import EvidentlySink
from prediction_service.journal import (
    JournalUnavailable,
    StoredEvent,
    folder_bytes,
    hold_lock,
    is_live,
    journal_paths,
    newest,
    read_after,
    remove_files,
)
from prediction_service.mongodb import MongoSink
from prediction_service.settings import Settings
from prediction_service.sinks import EventsRefused, Sink, SinkUnavailable

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.2
CLEAN_PERIOD_S = 5.0
LABEL_STATES_PERIOD_S = 30.0


def make_sinks(settings: Settings) -> list[Sink]:
    """The configured sinks."""
    sinks: list[Sink] = []
    if settings.mongodb_address:
        sinks.append(MongoSink.of(settings))
    if settings.evidently_address:
        sinks.append(EvidentlySink(settings.evidently_address, settings.sink_timeout_s))
    return sinks


class Shipper:
    """Ships every journal's events to one sink."""

    def __init__(self, sink: Sink, cursors: Cursors, settings: Settings) -> None:
        self.sink = sink
        self.cursors = cursors
        self.settings = settings
        self._finished: set[Path] = set()  # without a writer, and shipped to the end

    def run(self, stop: threading.Event) -> None:
        """Ships until `stop`, and then what is still waiting, if the sink takes it."""
        failures = 0
        while not stop.is_set():
            try:
                pause_s = 0 if self.ship() else self.settings.relay_batch_age_s
                if failures:
                    log.info("sink is back sink=%s", self.sink.name)
                failures = 0
            except SinkUnavailable as err:
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log.log(level, "sink unavailable sink=%s reason=%s", self.sink.name, err)
                pause_s = backoff_s(failures, self.settings.relay_backoff_max_s)
            except Exception as err:  # pylint: disable=broad-exception-caught
                failures += 1  # a surprise must not end the thread
                log.error("shipping failed sink=%s error=%s", self.sink.name, where(err))
                pause_s = backoff_s(failures, self.settings.relay_backoff_max_s)
            stop.wait(pause_s)
        self.drain()

    def ship(self) -> bool:
        """Ships up to one batch of each journal; True if more is waiting.

        Raises SinkUnavailable; what was shipped before it stays shipped.
        """
        more = False
        for path in journal_paths(self.settings.journal_path):
            if path not in self._finished:
                more = self._ship_batch(path) or more
        return more

    def drain(self) -> None:
        """Ships what is waiting, until the deadline or the sink's first failure."""
        deadline = time.monotonic() + self.settings.relay_drain_s
        try:
            while time.monotonic() < deadline and self.ship():
                pass
        except SinkUnavailable as err:
            log.warning("stopped with a backlog sink=%s reason=%s", self.sink.name, err)

    def _ship_batch(self, path: Path) -> bool:
        """Ships the next batch of a journal; True if it was a full one."""
        after = self.cursors.position(self.sink.name, path.stem)
        try:
            is_dead = not is_live(path)  # asked first: nothing is added after this
            events = read_after(path, after, self.settings.relay_batch_rows)
        except (JournalUnavailable, OSError) as err:  # the other journals go on
            log.warning("not read: %s", err)
            return False
        if events:
            deliver(self.sink, events, partial(self._set_aside, path.stem))
            self.cursors.advance(self.sink.name, path.stem, events[-1].seq)
        is_full = len(events) == self.settings.relay_batch_rows
        if is_dead and not is_full:
            self._finished.add(path)
        return is_full

    def _set_aside(self, journal: str, event: StoredEvent, reason: str) -> None:
        # The reason is kept with the event: it may quote a record, and no log does.
        log.error("event set aside sink=%s event=%s", self.sink.name, event.seq)
        self.cursors.bury(self.sink.name, journal, event, reason, time.time())


def deliver(
    sink: Sink, events: list[StoredEvent], set_aside: Callable[[StoredEvent, str], None]
) -> None:
    """Stores a batch; halves a refused one until only the events at fault are set aside.

    `set_aside` is told each of them with the reason. Raises SinkUnavailable.
    """
    try:
        sink.send(events)
    except EventsRefused as err:
        if len(events) == 1:
            set_aside(events[0], str(err))
            return
        middle = len(events) // 2
        deliver(sink, events[:middle], set_aside)
        deliver(sink, events[middle:], set_aside)


def backoff_s(failures: int, longest_s: float) -> float:
    """A pause that doubles with each failure in a row, with jitter so that relays spread out."""
    pause_s = min(longest_s, FIRST_BACKOFF_S * 2 ** min(failures - 1, 20))
    return pause_s * random.uniform(0.5, 1.0)


def clean(settings: Settings, cursors: Cursors, now: float) -> None:
    """Removes journals without a writer that are empty, or old enough and in every sink.

    What every sink has gives way at once where the journals have reached half of their bound.
    `now` is Unix time. Without MongoDB the journals are the log of record and stay.
    """
    root, sinks = settings.journal_path, settings.sinks
    is_crowded = folder_bytes(root) > settings.journal_max_mb * 10**6 / 2
    before = now - (0 if is_crowded else settings.journal_retention_s)
    for path in journal_paths(root):
        try:
            is_dead = not is_live(path)  # asked first: after this nothing is added
            seq, newest_at = newest(path)
            shipped = min((cursors.position(sink, path.stem) for sink in sinks), default=0)
            is_shipped = bool(settings.mongodb_address) and shipped >= seq and newest_at < before
            if is_dead and (seq == 0 or is_shipped):
                remove_files(path)
                cursors.forget(path.stem)
                log.info("dead journal removed path=%s", path)
        except (JournalUnavailable, OSError) as err:
            log.warning("not cleaned: %s", err)


def report_labels(sinks: Sequence[Sink], cursors: Cursors) -> None:
    """Records the log of record's label counts for the gauges."""
    for sink in sinks:
        if isinstance(sink, MongoSink):
            try:
                cursors.set_label_states(sink.label_states())
            except SinkUnavailable as err:
                log.debug("labels not counted reason=%s", err)


def keep_house(
    settings: Settings, sinks: Sequence[Sink], cursors: Cursors, stop: threading.Event
) -> None:
    """Cleans the journals and counts labels, each at its period, until `stop`."""
    count_labels_at = 0.0
    while not stop.is_set():
        try:
            clean(settings, cursors, time.time())
            if time.monotonic() >= count_labels_at:
                report_labels(sinks, cursors)
                count_labels_at = time.monotonic() + LABEL_STATES_PERIOD_S
        except Exception as err:  # pylint: disable=broad-exception-caught
            # As a cursor that a full disk does not take: the sinks go on, which makes room.
            log.error("housekeeping failed error=%s", where(err))
        touch_heartbeat(settings.heartbeat_file)
        stop.wait(CLEAN_PERIOD_S)


def wait_for_turn(settings: Settings, stop: threading.Event) -> int | None:
    """The lock of the only relay of the folder; a second one waits here as a stand-by.

    None if `stop` came first.
    """
    root = settings.journal_path
    root.mkdir(parents=True, exist_ok=True)
    warned = False
    while not stop.is_set():
        try:
            return hold_lock(root / "relay.lock")
        except BlockingIOError:
            if not warned:
                log.warning("another relay ships these journals, waiting root=%s", root)
            warned = True
            touch_heartbeat(settings.heartbeat_file)
            stop.wait(1)
    return None


def run(settings: Settings, stop: threading.Event) -> None:
    """Ships until `stop`, then drains within RELAY_DRAIN_S."""
    lock = wait_for_turn(settings, stop)
    if lock is None:
        return
    cursors = Cursors(settings.journal_path)
    sinks = make_sinks(settings)
    # Daemons: a call to a sink that hangs must not outlast the deadline.
    threads = [
        threading.Thread(target=Shipper(sink, cursors, settings).run, args=[stop], daemon=True)
        for sink in sinks
    ]
    for thread in threads:
        thread.start()
    log.info("relay started sinks=%s", ",".join(settings.sinks) or "none")
    keep_house(settings, sinks, cursors, stop)
    deadline = time.monotonic() + settings.relay_drain_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    log.info("relay stopped drained=%s", not any(thread.is_alive() for thread in threads))
    for sink in sinks:
        sink.close()
    os.close(lock)


def main() -> None:
    """The relay as a process; TERM and INT end it."""
    settings = read_settings(Settings)
    set_up(settings.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(settings, stop)


if __name__ == "__main__":
    exit_with_message(main)
