"""The rows to send: read, dealt out in a seeded order, and changed by a scenario."""
