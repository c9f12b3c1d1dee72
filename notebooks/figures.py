"""The figures of the notebooks: one style, and a text alternative for each.

A kernel starts in the folder of its notebook, so notebooks import this module by its own name.
"""

import base64
import html
import io

import matplotlib.pyplot as plt
from IPython.display import HTML, display


def set_style() -> None:
    """Set the style of all figures of a notebook."""
    plt.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )


def show(text: str) -> None:
    """Show the current figure; `text` says what it shows to people who cannot see it.

    Pages of nbconvert have no text alternative for a figure that `plt.show` displays.
    """
    content = io.BytesIO()
    plt.savefig(content, format="png")
    plt.close()
    image = base64.b64encode(content.getvalue()).decode()
    display(HTML(f'<img alt="{html.escape(text)}" src="data:image/png;base64,{image}">'))
