"""Where events go: MongoDB and the Evidently service."""
