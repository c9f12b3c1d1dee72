"""The floor of the serving benchmarks: a Flask route with a constant response."""

from flask import Flask, Response

BODY = b'{"answer": "' + b"x" * 300 + b'"}'  # as long as a prediction

app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    """Return the constant response."""
    return Response(BODY, content_type="application/json")
