"""The groups of people with figures of their own: by sex, race and age band.

The gate, the model card and the monitoring use the same groups, so their figures are comparable.
"""

PROTECTED = ("sex", "race")  # columns of the contract; each category is a group
AGE_BANDS = {"to 29": (0, 29), "30 to 44": (30, 44), "45 to 59": (45, 59), "from 60": (60, 200)}
