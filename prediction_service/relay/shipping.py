"""Ship journalled events to the sinks, each at least once.

Comes after the journals and before MongoDB and the Evidently service. A position advances after
its sink has stored the batch. A relay that is killed sends the batch again, and the sink keeps it
once. Each sink has a thread and positions of its own, so a sink that is down delays no other.
MongoDB is the log of record and holds the journals. The monitoring gets what there is room for.
"""

import math
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

import structlog

from config.runtime.heartbeat import touch_heartbeat
from config.runtime.logs import where
from prediction_service.backoff import Backoff
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
from prediction_service.relay.progress import (
    Progress,
    backlog_by_instance,
    dead_letters,
    sample_size,
)
from prediction_service.settings import Settings
from prediction_service.sinks.base import (
    EventsRejected,
    Sink,
    SinkMisconfigured,
    SinkUnavailable,
    sample_of,
)
from prediction_service.sinks.evidently import EvidentlySink
from prediction_service.sinks.mongodb import MongoSink

log = structlog.get_logger(__name__)

ATTEMPTS = 5  # of a batch, before it is halved to find an event at fault
FIRST_BACKOFF_S = 0.2
JITTER = 0.5  # spreads out relays
MAX_DEAD_LETTERS = 10_000  # of the monitoring: they take room that predictions need
LAG_S = 10.0  # rows of that age should have reached every sink that works
MAINTENANCE_PERIOD_S = 5.0
INDEX_RETRY_S = 30.0
REPORT_PERIOD_S = 5.0  # between two reports of the backlog to the monitoring
LOG_PERIOD_S = 60.0  # between two lines about a sink that stays unavailable
COUNT_PERIOD_S = 30.0  # between two counts of the labels, if these are quick
MAX_COUNTING_SHARE = 0.02  # of the time; a count takes longer the more labels there are
MAX_WARNINGS = 1000  # remembered


def make_sinks(settings: Settings) -> list[Sink]:
    """Return the configured sinks."""
    sinks: list[Sink] = []
    if settings.mongodb_address:
        sinks.append(MongoSink(settings))
    if settings.evidently_address:
        sinks.append(EvidentlySink(settings))
    return sinks


class Shipper:
    """The way of every journal's events to one sink.

    Each journal has a back-off of its own: a batch that keeps failing delays no other journal.
    """

    def __init__(self, sink: Sink, progress: Progress, settings: Settings) -> None:
        self.sink = sink
        self.progress = progress
        self.settings = settings
        self._finished: set[Path] = set()  # journals without a writer that are shipped completely
        self._failing: dict[Path, Backoff] = {}
        self._stored_at = -math.inf
        self._reported: set[str] = set()  # instances in the last report of the backlog
        self._report_at = -math.inf
        self._n_failures = 0  # in a row, of all journals
        self._log_at = -math.inf
        self._is_misconfigured: bool | None = None  # None: as an earlier relay recorded it

    def run(self, stop: threading.Event) -> None:
        """Ship until `stop`, and then the backlog."""
        while not stop.is_set():
            try:
                pause_s = 0.0 if self.ship() else self.pause_s()
                self._report_backlog()
            except Exception as err:  # pylint: disable=broad-exception-caught
                # An unexpected error must not end the thread.
                log.error("shipping_failed", sink=self.sink.name, error=where(err))
                pause_s = self.settings.relay_backoff_max_s
            stop.wait(pause_s)
        self.drain()

    def ship(self) -> bool:
        """Ship up to one batch of each journal that is due; return whether more is waiting."""
        more = False
        paths = journal_paths(self.settings.journal_path)
        self._failing = {path: one for path, one in self._failing.items() if path in paths}
        for path in paths:
            if path in self._finished or not self._backoff_of(path).is_over():
                continue
            try:
                more = self._ship_batch(path) or more
            except SinkUnavailable as err:
                self._back_off(path, err)
        if self._n_failures and not self._failing:
            log.info("sink_available", sink=self.sink.name)
            self._n_failures, self._log_at = 0, -math.inf
        return more

    def drain(self) -> None:
        """Ship the backlog until RELAY_DRAIN_S have passed; a journal that fails is left."""
        self._failing.clear()  # each gets one more attempt
        deadline = time.monotonic() + self.settings.relay_drain_s
        while time.monotonic() < deadline and self.ship():
            pass
        if self._failing:
            log.warning("stopped_with_backlog", sink=self.sink.name, journals=len(self._failing))

    def _report_backlog(self) -> None:
        """Tell the monitoring that this relay runs, and how many events it lacks."""
        if not isinstance(self.sink, EvidentlySink) or time.monotonic() < self._report_at:
            return
        self._report_at = time.monotonic() + REPORT_PERIOD_S
        waiting = backlog_by_instance(self.settings.journal_path, self.sink.name, self.sink.share)
        with suppress(SinkUnavailable, EventsRejected):  # shipping logs it
            self.sink.report_backlog(waiting | dict.fromkeys(self._reported - waiting.keys()))
            self._reported = set(waiting)

    def pause_s(self) -> float:
        """Return the time until the next batch is due."""
        retries = [one.retry_at - time.monotonic() for one in self._failing.values()]
        return max(0.0, min([self.settings.relay_batch_age_s, *retries]))

    def _backoff_of(self, path: Path) -> Backoff:
        """Return a journal's back-off; a new one without a failure in a row."""
        max_s = self.settings.relay_backoff_max_s
        return self._failing.get(path) or Backoff(FIRST_BACKOFF_S, max_s, JITTER)

    def _back_off(self, path: Path, err: SinkUnavailable) -> None:
        """Set the time of a journal's next attempt."""
        failing = self._failing[path] = self._backoff_of(path)
        failing.start()
        self._n_failures += 1
        self._set_misconfigured(isinstance(err, SinkMisconfigured))
        is_due = failing.failed_at >= self._log_at
        if is_due:
            self._log_at = failing.failed_at + LOG_PERIOD_S
        report = log.warning if is_due else log.debug
        report(
            "sink_unavailable",
            sink=self.sink.name,
            failures=self._n_failures,
            journals=len(self._failing),
            error=str(err),
        )

    def _ship_batch(self, path: Path) -> bool:
        """Ship the next batch of a journal; return whether more may be waiting."""
        after = self.progress.position(self.sink.name, path.stem)
        try:
            has_ended = not is_live(path)  # before reading: nothing is appended after this
            events = read_after(path, after, self.settings.relay_batch_rows)
        except (JournalUnavailable, OSError) as err:  # the other journals are still shipped
            warn_once("journal_unreadable", path, str(err))
            self._failing.pop(path, None)
            return False
        # Before storing: a batch that the sample leaves out says nothing about the sink.
        chosen = sample_of(events, self.sink.share)
        n_stored = self._store(path, chosen) if chosen else 0
        if events:
            seq = chosen[n_stored - 1].seq if n_stored < len(chosen) else events[-1].seq
            n_left_out = sum(one.seq <= seq for one in events) - n_stored
            self.progress.advance(self.sink.name, path.stem, seq, n_left_out)
        if n_stored < len(chosen):
            return True
        self._failing.pop(path, None)
        is_full = len(events) == self.settings.relay_batch_rows
        if has_ended and not is_full:
            self._finished.add(path)
        return is_full

    def _store(self, path: Path, events: list[StoredEvent]) -> int:
        """Store a batch; return how many of its events are done. Raises SinkUnavailable."""
        try:
            self._deliver(path, events)
        except SinkUnavailable as err:
            failing = self._backoff_of(path)
            if failing.failures < ATTEMPTS or isinstance(err, SinkMisconfigured):
                raise
            return self._isolate(path, events, failing)
        return len(events)

    def _isolate(self, path: Path, events: list[StoredEvent], failing: Backoff) -> int:
        """Halve a batch that keeps failing until the first event at fault is a dead letter.

        The events before it are stored. Return their number with that event. An event is at fault
        only if the sink works: it has just stored another event of the batch, or one of another
        journal since the last attempt. Otherwise raises SinkUnavailable.
        """

        def read(low: int, high: int) -> list[StoredEvent]:
            """Read a part of the batch again: an event may have been erased since."""
            first, last = events[low].seq, events[high - 1].seq
            return sample_of(read_after(path, first - 1, last - first + 1), self.sink.share)

        try:
            index = random.randrange(len(events))
            self._deliver(path, read(index, index + 1))
        except SinkUnavailable:
            if self._stored_at < failing.failed_at:
                raise
        low, high = 0, len(events)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self._deliver(path, read(low, middle))
                low = middle
            except SinkUnavailable:
                high = middle
        try:
            self._deliver(path, read(low, high))
        except SinkMisconfigured:
            raise
        except SinkUnavailable as err:
            for event in read(low, high):
                self._keep_rejected(path.stem, event, str(err))
        failing.failed_at = time.monotonic()
        return high

    def _deliver(self, path: Path, events: list[StoredEvent]) -> None:
        """Store events. Raises SinkUnavailable, also for an error that the sink does not expect."""
        try:
            deliver(self.sink, events, partial(self._keep_rejected, path.stem))
        except SinkUnavailable:
            raise
        except Exception as err:
            raise SinkUnavailable(f"Unexpected error: {where(err)}") from err
        self._stored_at = time.monotonic()
        self._set_misconfigured(False)

    def _set_misconfigured(self, is_misconfigured: bool) -> None:
        if is_misconfigured != self._is_misconfigured:
            self.progress.set_misconfigured(self.sink.name, is_misconfigured)
            self._is_misconfigured = is_misconfigured

    def _keep_rejected(self, journal: str, event: StoredEvent, reason: str) -> None:
        # The reason is stored with the event and not logged: it may quote a record.
        sink = self.sink.name
        log.error("event_rejected", sink=sink, journal=journal, seq=event.seq)
        root = self.settings.journal_path
        if self.sink.is_record or dead_letters(root).get(sink, 0) < MAX_DEAD_LETTERS:
            self.progress.add_dead_letter(sink, journal, event, reason, time.time())
        else:
            self.progress.count_dropped(sink, 1)


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


def remove_shipped(settings: Settings, progress: Progress, now: float) -> None:
    """Remove journals without a writer that are empty, or old enough and stored in every sink.

    If the journals have reached half of JOURNAL_MAX_MB, their age does not matter, and rows that
    only the monitoring lacks are dropped. Without MongoDB the journals are the log of record: only
    empty ones are removed. `now` is Unix time.
    """
    is_full = is_half_full(settings)
    before = now - (0 if is_full else settings.journal_retention_s)
    undelivered: list[tuple[float, int, Path]] = []  # stored in MongoDB, not in every other sink
    for path in journal_paths(settings.journal_path):
        try:
            has_ended = not is_live(path)  # before reading: nothing is appended after this
            seq, newest_at = newest(path)
            missing = {s for s in settings.sinks if progress.position(s, path.stem) < seq}
            is_recorded = bool(settings.mongodb_address) and MongoSink.name not in missing
            if has_ended and (seq == 0 or (is_recorded and not missing and newest_at < before)):
                _remove(path, progress)
            elif has_ended and is_recorded and missing:
                undelivered.append((newest_at, seq, path))
        except (JournalUnavailable, OSError) as err:
            warn_once("journal_not_removed", path, str(err))
    if is_full:
        drop_undelivered(settings, progress, [one for one in undelivered if one[0] < now - LAG_S])


def drop_undelivered(
    settings: Settings, progress: Progress, undelivered: list[tuple[float, int, Path]]
) -> None:
    """Remove journals that only the monitoring lacks, oldest first, until there is room.

    Each has the Unix time and the number of its newest event. The monitoring must not stop
    predictions: MongoDB has the rows.
    """
    for _, seq, path in sorted(undelivered):
        if not is_half_full(settings):
            break
        for sink, share in settings.sinks.items():
            waiting = max(0, seq - progress.position(sink, path.stem))
            if n_events := sample_size(waiting, share):
                progress.count_dropped(sink, n_events)
                log.error("events_dropped", sink=sink, journal=path.stem, events=n_events)
        _remove(path, progress)


def is_half_full(settings: Settings) -> bool:
    """Return whether the journals have reached half of JOURNAL_MAX_MB."""
    return folder_bytes(settings.journal_path) > settings.journal_max_mb * 10**6 / 2


@lru_cache(MAX_WARNINGS)
def warn_once(event: str, path: Path, error: str) -> None:
    """Log a fault of a journal, and again once its error changes: each round finds it again."""
    log.warning(event, path=str(path), error=error)


def _remove(path: Path, progress: Progress) -> None:
    remove_journal(path)
    progress.forget(path.stem)
    log.info("journal_removed", path=str(path))


def make_indexes(sink: MongoSink, stop: threading.Event) -> None:
    """Build MongoDB's indexes, beside the shipping; retry until it succeeds or `stop`."""
    while not stop.is_set():
        try:
            sink.make_indexes()
            return
        except SinkUnavailable as err:
            log.warning("indexes_not_built", error=str(err))
            stop.wait(INDEX_RETRY_S)


def count_labels(sink: MongoSink, progress: Progress, stop: threading.Event) -> None:
    """Record MongoDB's label counts for the gauges, again and again until `stop`.

    The pause grows with the time of a count. So MongoDB spends at most MAX_COUNTING_SHARE of the
    time on the counts of a relay, however many labels it holds.
    """
    while not stop.is_set():
        begun = time.monotonic()
        try:
            progress.set_label_states(sink.label_states())
        except SinkUnavailable as err:
            log.warning("labels_not_counted", error=str(err))
        except Exception as err:  # pylint: disable=broad-exception-caught
            # The thread must live: without it the gauges get old for ever.
            log.error("labels_not_counted", error=where(err))
        counted_s = time.monotonic() - begun
        stop.wait(max(COUNT_PERIOD_S, counted_s / MAX_COUNTING_SHARE - counted_s))


def tend_mongodb(sink: MongoSink, progress: Progress, stop: threading.Event) -> None:
    """Build the indexes, then count the labels over them until `stop`."""
    make_indexes(sink, stop)
    count_labels(sink, progress, stop)


def run_maintenance(settings: Settings, progress: Progress, stop: threading.Event) -> None:
    """Remove shipped journals until `stop`."""
    while not stop.is_set():
        try:
            remove_shipped(settings, progress, time.time())
        except Exception as err:  # pylint: disable=broad-exception-caught
            # A full disk takes no progress, but the sinks go on, and that makes room.
            log.error("maintenance_failed", error=where(err))
        touch_heartbeat(settings.heartbeat_file)
        stop.wait(MAINTENANCE_PERIOD_S)


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
    for sink in sinks:
        if isinstance(sink, MongoSink):
            threading.Thread(target=tend_mongodb, args=[sink, progress, stop], daemon=True).start()
    log.info("relay_started", sinks=list(settings.sinks))
    run_maintenance(settings, progress, stop)
    deadline = time.monotonic() + settings.relay_drain_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    log.info("relay_stopped", drained=not any(thread.is_alive() for thread in threads))
    for sink in sinks:
        sink.close()
    os.close(lock)
