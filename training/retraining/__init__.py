"""From drift to a new training: the rules, and the flow that applies them."""
