"""The style that all pages share: both services serve it, and each model card contains it."""

from pathlib import Path

STYLE = Path(__file__).with_name("style.css")
