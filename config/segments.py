"""The groups of people whose figures are looked at apart: by sex, race and age band.

The gate, the model card and the monitoring tell the same groups apart, so they can be compared.
"""

PROTECTED = ("sex", "race")  # columns of the contract; each category is a group
AGE_BANDS = {"to 29": (0, 29), "30 to 44": (30, 44), "45 to 59": (45, 59), "from 60": (60, 200)}
