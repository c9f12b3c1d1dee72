"""The ledger: why `production` moved or stayed, and why drift did or did not start a training.

Each entry is a run in one of two MLflow experiments.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

import mlflow
from mlflow.entities import RunTag

from config.model_registry import DECISIONS, PROMOTIONS

ABOUT = {
    PROMOTIONS: "One run for each change of the production version, with who and why in its tags,"
    " and for each end of a shadow test that left it in place.",
    DECISIONS: "One run for each change of the decision whether drift starts a training. Its tags"
    " have the deciding rule, the reason, and how often the decision was repeated.",
}
KIND = "mlflow.experimentKind"  # MLflow's tag; without it, the page is the one for chatbots
NONE = "none"  # in place of a version, before the first promotion
UNDONE = "undone: "  # with it starts why a version was undone


class Promotion(NamedTuple):
    """Who promotes a version, and why. An end of a shadow test that moves nothing is one too."""

    who: str
    why: str
    forced: bool = False  # the gate or a shadow test rejected the version, or no gate saw it
    untested: bool = False  # someone skipped the shadow test


class LastDecision(NamedTuple):
    """The newest decision about a training."""

    rule: str
    until: float  # Unix time of its latest repetition


class Ledger:
    """Promotions, and decisions about trainings."""

    def __init__(self, client: mlflow.MlflowClient) -> None:
        self.client = client

    @contextmanager
    def promotion(self, promotion: Promotion, before: str, after: str) -> Iterator[None]:
        """Write a promotion; it counts once the body has succeeded."""
        facts = promotion._asdict() | {"from_version": before, "to_version": after}
        tags = {name: str(value) for name, value in facts.items()}
        name = f"version {before} stays" if before == after else f"version {before} to {after}"
        run = self.client.create_run(self._experiment(PROMOTIONS), tags=tags, run_name=name)
        yield
        self.client.set_terminated(run.info.run_id)

    def promotions(self) -> list[dict[str, str]]:
        """Return every promotion, newest first: its time `at`, both versions, and its fields.

        If production stayed, both versions are the same.
        """
        query = "attributes.status = 'FINISHED'"
        runs = self.client.search_runs([self._experiment(PROMOTIONS)], query)
        names = ("from_version", "to_version", *Promotion._fields)
        return [
            {"at": local_time(run.info.start_time)}
            | {name: run.data.tags.get(name, "False") for name in names}  # some have no `untested`
            for run in runs
        ]

    def last_undone(self) -> float | None:
        """Return the Unix time of the last promotion that was undone, if any."""
        query = f"attributes.status = 'FINISHED' and tags.why LIKE '{UNDONE}%'"
        for run in self.client.search_runs([self._experiment(PROMOTIONS)], query, max_results=1):
            return run.info.start_time / 1000
        return None

    def predecessor(self, production: str) -> str:
        """Return the version to which a rollback from `production` goes, or `none`.

        A move to the predecessor removes a step of the path instead of adding one, so a second
        rollback goes one version further back.
        """
        moves = reversed(self.promotions())
        visited = [move[end] for move in moves for end in ("from_version", "to_version")]
        path = [NONE]
        for version in [*visited, production]:  # an unfinished promotion may have moved it
            if path[-2:-1] == [version]:
                path.pop()
            elif path[-1] != version:
                path.append(version)
        return path[-2] if len(path) > 1 else NONE

    def write_decision(self, tags: dict[str, str], details: dict[str, str]) -> None:
        """Write a decision. If `tags` equal those of the last one, count it there instead."""
        experiment_id = self._experiment(DECISIONS)
        last = self.client.search_runs([experiment_id], max_results=1)
        if last and all(last[0].data.tags.get(name) == tags[name] for name in tags):
            run_id = last[0].info.run_id
            details = {**details, "times": str(int(last[0].data.tags["times"]) + 1)}
            changed = [RunTag(name, text) for name, text in details.items()]
            self.client.log_batch(run_id, tags=changed)
        else:  # in one request, so no entry lacks a part
            whole = {**tags, **details, "times": "1"}
            started = tags.get("flow_run")
            name = f"training: {started}" if started else f"no training: {tags['rule']}"
            made = self.client.create_run(experiment_id, tags=whole, run_name=name)
            run_id = made.info.run_id
        self.client.set_terminated(run_id)  # sets the end to the latest repetition

    def decisions(self) -> list[dict[str, str]]:
        """Return every decision about a training, newest first: at, until, times and its tags.

        An entry whose writing was interrupted may lack its end.
        """
        runs = self.client.search_runs([self._experiment(DECISIONS)])
        return [
            run.data.tags
            | {
                "at": local_time(run.info.start_time),
                "until": local_time(run.info.end_time or run.info.start_time),
            }
            for run in runs
        ]

    def last_decision(self) -> LastDecision | None:
        """Return the newest decision about a training, if there is one."""
        for run in self.client.search_runs([self._experiment(DECISIONS)], max_results=1):
            at = run.info.end_time or run.info.start_time
            return LastDecision(run.data.tags["rule"], at / 1000)
        return None

    def _experiment(self, name: str) -> str:
        if found := self.client.get_experiment_by_name(name):
            return found.experiment_id
        return self.client.create_experiment(name, tags=experiment_tags(ABOUT[name]))


def experiment_tags(description: str) -> dict[str, str]:
    """Return MLflow's tags of an experiment for model training, with its description."""
    return {KIND: "custom_model_development", "mlflow.note.content": description}


def local_time(milliseconds: int) -> str:
    """Return a time of MLflow in the local time zone, to the second."""
    return datetime.fromtimestamp(milliseconds / 1000).isoformat(" ", "seconds")
