"""The values of one measurement, as the window stores them and `/drift` shows them.

`measure` makes a Measurement, `store.window` stores it, `api` shows it. Field names are part of
`/drift` and of stored rows.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

State = Literal["ok", "not_enough_rows", "no_reference", "not_measured"]
STATES: tuple[State, ...] = ("ok", "not_enough_rows", "no_reference", "not_measured")
# `not_judged`: no window of this reference data yet. `suspicious`: a column is beyond its
# threshold, which chance may explain. `columns_drifted`: fewer columns than dataset drift needs.
# `joint_drift`: the features together have drifted, and no column alone.
Verdict = Literal["drifted", "not_judged", "columns_drifted", "joint_drift", "suspicious", "calm"]


class ColumnDrift(msgspec.Struct, frozen=True):
    """The drift of one column."""

    name: str
    test: str
    score: float  # a distance or a p-value, depending on the test
    threshold: float
    ratio: float  # above 1 is drift, for every test
    drifted: bool  # in this window
    persistent: bool = False  # in enough judged windows in a row: the drift verdict


class Spread(msgspec.Struct, frozen=True):
    """The spread of a column's shares over windows, which a new window updates."""

    windows: int = 0
    mean: tuple[float, ...] = ()  # (n_shares,), over the windows
    excess: float = 0.0  # squared distances from the mean, in variances of independent rows


class JointDrift(msgspec.Struct, frozen=True):
    """The drift of all features together, in one judged window."""

    roc_auc: float  # of a classifier that tells window and reference data apart
    threshold: float  # of the ROC AUC
    ratio: float  # above 1 is drift; 0 is the value without drift
    columns: tuple[str, ...] = ()  # that the classifier needs, beyond the threshold
    streak: int = 0  # last windows in a row beyond the threshold
    persistent: bool = False  # in enough windows in a row; stays until a window clears it


class Judgement(msgspec.Struct, frozen=True):
    """The drift verdict of all judged windows, and the start of the next window.

    Times are event times of a window's last row, in Unix seconds.
    """

    reference: str | None = None  # the version whose windows `windows` and `streaks` count
    arrival: int = 0  # of the last row that was judged or skipped
    not_before: float = 0.0  # minimum event time of the next window's rows
    windows: int = 0  # judged against this reference data
    too_small: int = 0  # closed with fewer than `min_rows` distinct rows, so not judged
    calm_windows: int = 0  # of `windows`, those that have calibrated the thresholds
    factors: dict[str, float] = {}  # per column, of its ratios; in use once calibrated
    spreads: dict[str, Spread] = {}  # per column, of the calm windows since `factors` changed
    streaks: dict[str, int] = {}  # per column: last windows in a row beyond the threshold
    persistent: tuple[str, ...] = ()  # drifted columns; each stays until a window clears it
    joint: JointDrift | None = None  # in the last window
    # The first of the last windows in a row whose own scores are drift. Later rows are all from
    # the changed world. None after a window without drift.
    changed_by: float | None = None
    drifted_since: float | None = None  # when the verdict last became drift
    drifted_from: str | None = None  # the version whose reference data it drifted from
    resolved_at: float | None = None  # when it cleared, against another version's reference data


class DriftImpact(msgspec.Struct, frozen=True, rename={"impact": "effect"}):
    """The shift of the mean probability caused by one feature's drift; 0.01 is one point.

    `measure.drift_impact` lists the limits.
    """

    feature: str
    impact: float  # absolute shift
    shift: float  # above 0: the probabilities have risen
    standard_error: float  # of the shift; less than two of it may be chance


class Bin(msgspec.Struct, frozen=True):
    """The shares of rows with the same values, in [0, 1]."""

    values: str  # in words
    reference: float
    window: float


class Distribution(msgspec.Struct, frozen=True):
    """The values of a drifted feature in the reference data and in the window."""

    feature: str
    bins: tuple[Bin, ...]


class WindowFacts(msgspec.Struct, frozen=True):
    """Size and times of the measured window."""

    rows: int
    ingested_total: int  # predictions ever stored when these rows were read
    first_event_at: float | None = None  # Unix time in seconds
    last_event_at: float | None = None


class FeatureQuality(msgspec.Struct, frozen=True):
    """Shares of the window's rows with a faulty value of one feature, in [0, 1]."""

    feature: str
    missing: float | None = None  # None, here and below: the fault cannot occur
    out_of_range: float | None = None
    unseen: float | None = None  # a category that the contract does not list


class Counters(msgspec.Struct, frozen=True):
    """Events ever received; pruning and restarts do not change these."""

    ingested: int = 0  # predictions stored
    duplicates: int = 0  # predictions received again, not stored twice
    labels_matched: int = 0  # joined their prediction
    labels_late: int = 0  # came more than `label_days` after their prediction
    labels_unknown: int = 0  # waited for their prediction in vain


class LabelCounts(msgspec.Struct, frozen=True):
    """Stored labels by state: the newest `retention_rows` of each."""

    matched: int = 0  # joined their prediction
    pending: int = 0  # the prediction has not arrived yet
    conflicting: int = 0  # contradicted the prediction's first label, which stays


class LabelledPrediction(msgspec.Struct, frozen=True, gc=False):
    """What the quality needs of a prediction, and its true class. Times are Unix times."""

    predicted_at: float
    model_version: str
    probability: float  # of class 1, in [0, 1]
    income_class: int  # predicted
    groups: dict[str, str]  # by segment
    labelled_at: float
    label: int  # 0 or 1


class LabelCoverage(msgspec.Struct, frozen=True):
    """The labels of the newest predictions that are old enough to have one."""

    rows: int = 0
    labelled: int = 0
    oldest_at: float | None = None  # prediction time of the oldest row that a label can join

    @property
    def share(self) -> float | None:
        """Labelled rows over rows, in [0, 1]; None without rows."""
        return self.labelled / self.rows if self.rows else None


class Interval(msgspec.Struct, frozen=True):
    """A 95 % interval."""

    lower: float
    upper: float


class Confusion(msgspec.Struct, frozen=True):
    """Labelled predictions by true and predicted class."""

    true_negatives: int
    false_positives: int
    false_negatives: int
    true_positives: int


class Quality(msgspec.Struct, frozen=True):
    """The quality of the newest labelled predictions; the positive class is 1.

    A metric is None if the labels do not define it, such as the recall without a label of 1.
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
    calibration_error_by_chance: float | None = None  # of a calibrated model with these rows
    calibration_excess: float | None = None  # mean probability minus observed share of 1
    calibration_slope: float | None = None  # of the label on the probability's logit
    calibration_intercept: float | None = None
    since: float | None = None  # Unix time of the oldest of the predictions


class Estimate(msgspec.Struct, frozen=True):
    """The quality of predictions, estimated before their labels arrive."""

    rows: int
    metrics: dict[str, float]  # those of Quality that are defined, by name
    bounds: dict[str, Interval]  # by metric, over labels drawn by the probabilities


class Segment(msgspec.Struct, frozen=True):
    """The figures of one group."""

    segment: str  # a column
    group: str
    rows: int  # in the window
    selection_rate: float  # share with predicted class 1
    quality: dict[str, float]  # accuracy, tpr, fpr of its labelled rows, if there are enough


class FairnessGap(msgspec.Struct, frozen=True):
    """The two groups of a segment whose rates differ most, compared with the reference data."""

    segment: str  # a column
    rate: str  # selection_rate, tpr or fpr
    score: float  # rise of the gap over what chance adds; above 1 it is beyond its bound
    gap: float  # difference of the two groups' rates in production
    reference_gap: float  # of the same groups, at least 0
    highest: str  # the group with the higher rate in production
    lowest: str


class Measurement(msgspec.Struct, frozen=True, kw_only=True, rename={"impacts": "effects"}):
    """One comparison of window and reference data; without a drift verdict unless `state` is ok.

    A field that a later release adds needs a default: stored measurements outlive an upgrade.
    """

    dataset: str
    state: State
    drifted: bool = False  # `share_drifted` has reached `share_threshold`
    share_drifted: float | None = None  # persistently drifted features over all, in [0, 1]
    share_threshold: float
    features: tuple[ColumnDrift, ...] = ()
    prediction: tuple[ColumnDrift, ...] = ()
    not_compared: tuple[str, ...] = ()  # features with too few values for a drift score
    impacts: tuple[DriftImpact, ...] = ()  # of the features, the largest first
    distributions: tuple[Distribution, ...] = ()  # of columns beyond, by impact, at most five
    model_version: str | None = None  # the version of the reference data
    reference_rows: int = 0
    measured_at: float | None = None  # Unix time of the last check that these figures still hold
    duration_s: float | None = None
    window: WindowFacts
    data_quality: tuple[FeatureQuality, ...] = ()
    invalid_share_rises: dict[str, float] = {}  # over the reference data, by feature
    broken_features: tuple[str, ...] = ()  # whose rise is above max_invalid_share_rise
    labels: LabelCounts = LabelCounts()
    label_coverage: float | None = None  # labelled share of rows old enough for one, in [0, 1]
    label_horizon_s: float | None = None  # age of the oldest prediction that a label can join
    label_delay_s: dict[str, float] = {}  # of the rows of `quality`, by quantile
    quality: Quality | None = None  # of the production version, if there is one
    concept_shift: bool = False  # a score is above 1: the labels contradict the probabilities
    concept_shift_scores: dict[str, float] = {}  # by check, z-scores over their limit
    below_floor: bool = False  # the whole interval of the ROC AUC is below roc_auc_floor
    roc_auc_floor: float | None = None  # None without reference data
    segments: tuple[Segment, ...] = ()
    fairness_gaps: tuple[FairnessGap, ...] = ()  # by segment and rate
    estimated: Estimate | None = None  # of all rows of the window
    estimation_error: dict[str, float] = {}  # of the rows of `quality`: estimated minus measured
    judgement: Judgement = Judgement()
    open_rows: int = 0  # distinct ones of the next window to be judged, so far
    false_alarms_per_month: float | None = None  # the budget of the thresholds
    calibration_windows: int = 0  # calm ones, after which the budget holds for this traffic

    @property
    def beyond(self) -> tuple[str, ...]:
        """The columns beyond their threshold, in this window or in the last judged one."""
        columns = (*self.features, *self.prediction)
        return tuple(c.name for c in columns if c.drifted or self.judgement.streaks.get(c.name))

    @property
    def grown_gaps(self) -> tuple[FairnessGap, ...]:
        """The gaps between groups that are beyond their bound."""
        return tuple(one for one in self.fairness_gaps if one.score > 1)

    @property
    def calibrating(self) -> str | None:
        """The progress of the calibration in words; None once it is done."""
        calm, needed = self.judgement.calm_windows, self.calibration_windows
        return f"calibrating: {calm} of {needed} windows" if calm < needed else None

    @property
    def is_judged(self) -> bool:
        """Whether there is a verdict: of this reference data, or drift that no window cleared."""
        return self.drifted or self.judgement.windows > 0

    @property
    def verdict(self) -> Verdict | State:
        """The drift verdict in one word, or the state that prevents one."""
        if self.state != "ok":
            return self.state
        if self.drifted:
            return "drifted"
        if not self.is_judged:
            return "not_judged"
        if any(column.persistent for column in (*self.features, *self.prediction)):
            return "columns_drifted"
        joint = self.judgement.joint
        if joint and joint.persistent:
            return "joint_drift"
        return "suspicious" if self.beyond or (joint and joint.streak) else "calm"


class Backlog(msgspec.Struct, frozen=True):
    """What an instance of the prediction service has not delivered, as its relay reported."""

    instance: str
    events: int
    at: float  # Unix time of the report
    sample: float = 1.0  # share of predictions that the relay sends, in (0, 1]


def sample_share(backlog: Sequence[Backlog]) -> float:
    """Return the smallest share of predictions that a relay sends; 1 without a report."""
    return min((one.sample for one in backlog), default=1.0)


class Decision(msgspec.Struct, frozen=True):
    """The newest decision of the training's `watch` flow. Times are Unix times."""

    since: float
    until: float  # of its latest repetition
    rule: str
    why: str
    flow_run: str | None = None  # Prefect's name of the training that it started


class Promotion(msgspec.Struct, frozen=True):
    """The newest promotion or rollback, or end of a shadow test that left production in place."""

    at: float  # Unix time in seconds
    from_version: str
    to_version: str
    why: str


class Run(msgspec.Struct, frozen=True):
    """The last run of the measure process."""

    at: float  # Unix time in seconds
    error: str | None = None
    decision: Decision | None = None
    promotion: Promotion | None = None
