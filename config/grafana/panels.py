"""The kinds of panels that the dashboards are made of, each with the project's habits.

Built with Grafana's own SDK for Python, of the release line of Grafana's image.
"""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import TypeVar

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, statetimeline
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import text, timeseries
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.text import TextMode

from config.grafana.alerts import ALERTS, DATASOURCE

SOURCE = models.DataSourceRef(type_val="prometheus", uid=DATASOURCE)
TAG = "income"
GREEN, RED = "green", "red"

Query = tuple[str, str]  # PromQL, and what its series are called
Limits = dashboards.ThresholdsConfig
Kind = TypeVar("Kind", stat.Panel, timeseries.Panel, bargauge.Panel, statetimeline.Panel)


def dashboard(uid: str, title: str, description: str) -> dashboards.Dashboard:
    """An empty dashboard: of the last hour, fresh every 15 s, with a list of all others."""
    others = dashboards.DashboardLink("Dashboards").type(models.DashboardLinkType.DASHBOARDS)
    return (
        dashboards.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()  # the files are the truth
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("15s")
        .link(others.tags([TAG]).as_dropdown(True).keep_time(True))
    )


def row(title: str) -> dashboards.Row:
    """A heading; the panels after it are below it."""
    return dashboards.Row(title)


# --- panels ---------------------------------------------------------------------------------------


def number(
    title: str, description: str, expression: str, limits: Limits | None = None
) -> stat.Panel:
    """A figure as it is now, a sixth of the width wide, coloured by its limits if it has any.

    It is asked for this instant: a range's last value would stay for as long as the dashboard looks
    back, also after what it told of has gone.
    """
    panel = described(stat.Panel(), title, description, [(expression, "")], instant=True)
    colour = looks.BigValueColorMode.BACKGROUND if limits else looks.BigValueColorMode.NONE
    return (
        panel.span(4)
        .height(4)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(looks.BigValueGraphMode.NONE)
        .color_mode(colour)
        .thresholds(limits or unlimited())
    )


def names(title: str, description: str, expression: str, legend: str) -> stat.Panel:
    """What the series that there are now are called, such as the versions that are served."""
    panel = number(title, description, expression).text_mode(looks.BigValueTextMode.NAME)
    return panel.targets([query((expression, legend), "A", instant=True)])


def lines(
    title: str, description: str, *queries: Query, limits: Limits | None = None
) -> timeseries.Panel:
    """Figures over time, half of the width wide, their limits as dashed lines."""
    panel = described(timeseries.Panel(), title, description, queries)
    legend = common.VizLegendOptions().show_legend(True).calcs([])
    legend.display_mode(looks.LegendDisplayMode.LIST).placement(looks.LegendPlacement.BOTTOM)
    shown = looks.GraphThresholdsStyleMode.DASHED if limits else looks.GraphThresholdsStyleMode.OFF
    return (
        panel.legend(legend)
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI))
        .show_points(looks.VisibilityMode.NEVER)
        .thresholds(limits or unlimited())
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(shown))
    )


def bars(
    title: str, description: str, *queries: Query, limits: Limits | None = None
) -> bargauge.Panel:
    """Figures side by side as they are now, half of the width wide."""
    panel = described(bargauge.Panel(), title, description, queries, instant=True)
    return (
        panel.orientation(looks.VizOrientation.HORIZONTAL)
        .display_mode(looks.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(limits or unlimited())
        .min(0)
    )


def timeline(title: str, description: str, *queries: Query) -> statetimeline.Panel:
    """What was the case when, over the whole width."""
    panel = described(statetimeline.Panel(), title, description, queries).span(24).height(6)
    return panel.show_value(looks.VisibilityMode.NEVER).thresholds(unlimited())


def words(title: str, markdown: str, height: int) -> text.Panel:
    """A text, over the whole width."""
    panel = text.Panel().title(title).span(24).height(height)
    return panel.mode(TextMode.MARKDOWN).content(markdown)


def described(
    panel: Kind, title: str, description: str, queries: Sequence[Query], *, instant: bool = False
) -> Kind:
    """A panel of the usual size with its title, its description and its queries."""
    panel.title(title).description(description).datasource(SOURCE).span(12).height(8)
    panel.targets([query(one, ref, instant=instant) for one, ref in zip(queries, ascii_uppercase)])
    return panel


def query(one: Query, ref_id: str, *, instant: bool) -> prometheus.Dataquery:
    """A query of Prometheus, for now or for the range that is looked at."""
    built = prometheus.Dataquery().expr(one[0]).legend_format(one[1]).ref_id(ref_id)
    built.datasource(SOURCE)
    return built.instant() if instant else built.range()


# --- limits and values ----------------------------------------------------------------------------


def unlimited() -> Limits:
    """No limit."""
    return steps((None, GREEN))


def above(value: float) -> Limits:
    """Red from a value on."""
    return steps((None, GREEN), (value, RED))


def below(value: float) -> Limits:
    """Red up to a value."""
    return steps((None, RED), (value, GREEN))


def alerted(name: str) -> Limits:
    """The limit of an alert: red where it fires."""
    (alert,) = [one for one in ALERTS if one.name == name]
    return above(alert.threshold) if alert.comparison == ">" else below(alert.threshold)


def steps(*colours: tuple[float | None, str]) -> Limits:
    """Colours by the value from which they hold; None: from the lowest on."""
    found = [models.Threshold(value=value, color=colour) for value, colour in colours]
    return Limits().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def called(texts: dict[str, tuple[str, str]]) -> list[models.ValueMapping]:
    """What values are shown as: text and colour by value."""
    options = {
        value: models.ValueMappingResult(text=shown, color=colour)
        for value, (shown, colour) in texts.items()
    }
    return [models.ValueMap(options=options)]
