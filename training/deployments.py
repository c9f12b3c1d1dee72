"""The deployments of the training part: `train` on a schedule and on demand, and `watch`."""

import os
from datetime import timedelta

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

from config.settings import read_settings
from training.flow import train
from training.settings import Settings
from training.watch import watch

# A run that would have to wait is dropped: the next one asks the same question.
ONE_AT_A_TIME = ConcurrencyLimitConfig(
    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
)


def serve_deployments() -> None:
    """Serves `train` (scheduled and on demand) and `watch` until it is stopped."""
    settings = read_settings(Settings, os.environ)
    serve(
        train.to_deployment(
            name="train",
            interval=timedelta(minutes=settings.train_period_minutes),
            parameters={"trigger": "schedule"},
            concurrency_limit=ONE_AT_A_TIME,
        ),
        watch.to_deployment(
            name="watch",
            interval=timedelta(seconds=settings.watch_period_s),
            concurrency_limit=ONE_AT_A_TIME,
        ),
        print_starting_message=False,
    )
