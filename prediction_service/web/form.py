"""The page at `/`: predict one record or a CSV file, with explanations.

The fields come from the contract. `form.js` sends requests to `/predict` like any other client.
"""

import msgspec
from flask import render_template, request

from config.contract import Contract, column_name
from config.feature import MISSING_MARKS
from config.web import absolute_links
from prediction_service.models.live_model import LiveModel
from prediction_service.settings import Settings


def make_form_page(live_model: LiveModel, settings: Settings) -> str:
    """Return the page's HTML, with the facts of the live model."""
    facts = live_model.model.facts if live_model.model else {}
    return render_template(
        "form.html",
        target=live_model.contract.target,
        inputs=live_model.contract.inputs,
        example=live_model.contract.example,
        columns=msgspec.json.encode(describe_columns(live_model.contract)).decode(),
        missing_marks=MISSING_MARKS,
        model=live_model.model,
        metrics=msgspec.json.decode(facts.get("metrics") or "{}"),
        intervals=msgspec.json.decode(facts.get("metric_intervals") or "{}"),
        links=absolute_links(settings.page_links, request.host_url, "Predict"),
        max_records=settings.max_records,
        max_body_bytes=settings.max_body_bytes,
        needs_key=bool(settings.api_key_hashes),
    )


def describe_columns(contract: Contract) -> list[dict[str, object]]:
    """Return what the script needs to read the model's columns from the form or a CSV file.

    `headers` are the column's names as headers are compared, `values` those of a boolean.
    """
    return [
        {
            "name": one.name,
            "headers": [column_name(name) for name in (one.name, *one.aliases)],
            "kind": one.kind,
            "is_optional": one.optional,
            "categories": one.categories,
            "values": one.values,
        }
        for one in contract.inputs
    ]
