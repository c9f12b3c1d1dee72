"""What one comparison of window and reference says: the values behind /drift and /metrics.

`measure` makes a Measurement, `window` keeps it, `app` and `metrics` show it.
"""

from typing import Literal

import msgspec

State = Literal["ok", "not_enough_rows", "no_reference", "not_measured"]
STATES: tuple[State, ...] = ("ok", "not_enough_rows", "no_reference", "not_measured")


class ColumnDrift(msgspec.Struct, frozen=True):
    """How far one column has moved."""

    name: str
    test: str
    score: float  # as the test gives it: a distance or a p-value
    threshold: float
    ratio: float  # above 1 is drift, whatever the test
    drifted: bool  # in this window
    persistent: bool = False  # in enough judged windows in a row: the verdict


class Judgement(msgspec.Struct, frozen=True):
    """What the judged windows have said so far, and where the next one begins.

    Times are event times, in Unix seconds, of a window's last row.
    """

    reference: str | None = None  # the version that `windows` and `streaks` are of
    arrival: int = 0  # of the last row that was judged or left out
    not_before: float = 0.0  # event time of the oldest row that the next window may have
    windows: int = 0  # judged against this reference
    too_small: int = 0  # closed by their time with not enough rows, so not judged
    streaks: dict[str, int] = {}  # windows in a row that a column was beyond its threshold in
    persistent: tuple[str, ...] = ()  # columns that have drifted; stays until a window clears it
    # Of the first of the last windows in a row whose own scores are drift: what came later is of
    # the changed world alone. None after a calm one.
    changed_by: float | None = None
    drifted_since: float | None = None  # when the verdict last became drift
    drifted_from: str | None = None  # the version whose reference it was drift from
    resolved_at: float | None = None  # when it cleared, compared with another version's reference


class DriftEffect(msgspec.Struct, frozen=True):
    """How far one feature's drift has moved the mean probability, in probability: 0.01 is a point.

    `evidently_service.measure.drift_impact` says what this leaves out.
    """

    feature: str
    effect: float  # the size of the shift
    shift: float  # above 0 the probabilities have risen
    standard_error: float  # of the shift; below two of it, it may be chance


class WindowFacts(msgspec.Struct, frozen=True):
    """Which rows were measured."""

    rows: int
    ingested_total: int  # predictions ever stored when these rows were read
    first_event_at: float | None = None  # Unix time in seconds
    last_event_at: float | None = None


class FeatureQuality(msgspec.Struct, frozen=True):
    """Shares of the window's rows, in [0, 1], in which one feature's value is faulty."""

    feature: str
    missing: float | None = None  # these three: None where the feature's values cannot be so
    out_of_range: float | None = None
    unseen: float | None = None  # a category that the contract does not list


class Counters(msgspec.Struct, frozen=True):
    """Predictions ever received; pruning and restarts leave these as they are."""

    ingested: int = 0  # stored
    duplicates: int = 0  # came again, not stored twice


class LabelCounts(msgspec.Struct, frozen=True):
    """What became of the labels that are kept."""

    matched: int = 0  # their prediction is here too
    pending: int = 0  # their prediction has not come yet
    conflicting: int = 0  # they contradicted the prediction's first label, which stays


class Interval(msgspec.Struct, frozen=True):
    """The ends of a figure's 95 % interval."""

    lower: float
    upper: float


class Confusion(msgspec.Struct, frozen=True):
    """How many labelled predictions were right and wrong, by the predicted class."""

    true_negatives: int
    false_positives: int
    false_negatives: int
    true_positives: int


class Quality(msgspec.Struct, frozen=True):
    """How right the newest labelled predictions were; the positive class is 1.

    A metric that these labels do not define is None, such as the recall without a label of 1.
    """

    rows: int
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    roc_auc: float | None = None
    log_loss: float | None = None
    bounds: dict[str, Interval] = {}  # by metric
    confusion: Confusion | None = None
    calibration_error: float | None = None  # ECE over 15 bins, in [0, 1]
    calibration_excess: float | None = None  # mean probability less the observed share of 1
    since: float | None = None  # Unix time of the oldest of the predictions


class Estimate(msgspec.Struct, frozen=True):
    """How right predictions will be, as estimated before their labels come."""

    rows: int
    metrics: dict[str, float]  # those of Quality that exist, by name
    bounds: dict[str, Interval]  # what labels drawn by the probabilities would give, by metric


class Segment(msgspec.Struct, frozen=True):
    """How one group of people is treated."""

    segment: str  # what tells the groups apart: a column, or the age
    group: str
    rows: int  # in the window
    selection_rate: float  # share of them that is predicted 1
    quality: dict[str, float]  # of the labelled ones: accuracy, tpr, fpr; where enough are labelled


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison of the window with the reference; without a verdict unless `state` is ok.

    Every field that came later has a default: a window keeps measurements over an upgrade.
    """

    dataset: str
    state: State
    drifted: bool = False  # the share has reached its threshold
    share_drifted: float | None = None  # of the features, in [0, 1]: those that persistently drift
    share_threshold: float
    features: tuple[ColumnDrift, ...] = ()
    prediction: tuple[ColumnDrift, ...] = ()
    effects: tuple[DriftEffect, ...] = ()  # of the features, the largest first
    model_version: str | None = None  # the version that the reference belongs to
    reference_rows: int = 0
    measured_at: float | None = None  # Unix time in seconds: the window looked like this then
    duration_s: float | None = None
    window: WindowFacts
    data_quality: tuple[FeatureQuality, ...] = ()
    labels: LabelCounts = LabelCounts()
    label_coverage: float | None = None  # share of the window's rows that have a label, in [0, 1]
    # Of the rows of `quality`, by quantile: seconds from the prediction to its label.
    label_delay_s: dict[str, float] = {}
    quality: Quality | None = None  # of the version that serves, where there is one
    below_floor: bool = False  # ROC AUC, its whole interval, is below roc_auc_floor
    segments: tuple[Segment, ...] = ()
    estimated: Estimate | None = None  # of the window's rows, labelled or not
    estimation_error: dict[str, float] = {}  # of the rows of `quality`: estimated less measured
    judgement: Judgement = Judgement()
    false_alarms_per_month: float | None = None  # the budget that the thresholds were made for


class Run(msgspec.Struct, frozen=True):
    """How the measure process last fared, whether it measured or failed."""

    at: float  # Unix time in seconds
    error: str | None = None
