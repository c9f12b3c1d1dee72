"""The groups of people with figures of their own: by sex, race and age band.

The gate, the model card and the monitoring use the same groups, so their figures are comparable.
"""

from collections.abc import Mapping

PROTECTED = ("sex", "race")  # columns of the contract; each category is a group
AGE_BANDS = {"to 29": (0, 29), "30 to 44": (30, 44), "45 to 59": (45, 59), "from 60": (60, 200)}
NO_BAND = "out of range"


def segment_groups(features: Mapping[str, str | int | float | bool | None]) -> dict[str, str]:
    """Return the row's group in each segment whose column it has: `PROTECTED` and "age"."""
    groups = {column: str(features[column]) for column in PROTECTED if column in features}
    if isinstance(age := features.get("age"), (int, float)):
        bands = (name for name, (low, high) in AGE_BANDS.items() if low <= age <= high)
        groups["age"] = next(bands, NO_BAND)
    return groups
