"""The floor of a served prediction: an empty Flask route, a POST answered with a constant."""

from flask import Flask, Response

ANSWER = b'{"answer": "' + b"x" * 300 + b'"}'  # as long as a prediction's

app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    """The constant."""
    return Response(ANSWER, content_type="application/json")
