"""The shadow: a second version, scored on what production has answered, and judged by labels."""
