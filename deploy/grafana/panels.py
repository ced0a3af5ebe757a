"""The few kinds of panels that the dashboards are made of, and how they stand together."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    FieldColorModeId,
    Panel,
    Threshold,
    ThresholdsMode,
)

CHATS = 'endpoint="/v1/chat/completions"'
INTERVAL = "$__rate_interval"  # Grafana's word: as short as the scrape interval allows

Query = tuple[str, str]  # what the legend says, and the query
Row = tuple[str, Sequence[Builder[Panel]]]  # a title, and panels whose widths fill lines of 24

_SOURCE = DataSourceRef("prometheus", "${datasource}")
_SOFT, _FILLED = 8, 60  # per cent


def quantile(share: float, metric: str, *by: str, where: str = "") -> str:
    """A query for the quantile of a histogram, by more labels if you like."""
    labels, selector = ", ".join(("le", *by)), f"{{{where}}}" if where else ""
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({metric}_bucket{selector}[{INTERVAL}])))"


def rate(metric: str, *by: str, where: str = "") -> str:
    """A query for events per second, added up over all instances."""
    labels, selector = f" by ({', '.join(by)}) " if by else "", f"{{{where}}}" if where else ""
    return f"sum{labels}(rate({metric}{selector}[{INTERVAL}]))"


def graph(
    title: str,
    says: str,
    *queries: Query,
    unit: str = "reqps",
    width: int = 8,
    stacked: Literal["no", "sum", "share"] = "no",
    least: float | None = 0.0,
    most: float | None = None,
) -> Builder[Panel]:
    """Lines over time; `stacked` on top of each other as they are, or as shares of their sum."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(says)
        .datasource(_SOURCE)
        .unit(unit)
        .height(8)
        .span(width)
        .line_width(1)
        .fill_opacity(_SOFT if stacked == "no" else _FILLED)
        .show_points(VisibilityMode.NEVER)
        .legend(legend.placement(LegendPlacement.BOTTOM).calcs([]))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .targets(_targets(queries))
    )
    if stacked != "no":
        mode = StackingMode.NORMAL if stacked == "sum" else StackingMode.PERCENT
        panel.stacking(common.StackingConfig().mode(mode).group("A"))
    if least is not None:
        panel.min(least)
    return panel if most is None else panel.max(most)


def number(
    title: str,
    says: str,
    *queries: Query,
    unit: str = "short",
    width: int = 4,
    warn: float | None = None,
    alarm: float | None = None,
) -> Builder[Panel]:
    """The newest value, large; orange from `warn` on, red from `alarm` on."""
    panel = (
        stat.Panel()
        .title(title)
        .description(says)
        .datasource(_SOURCE)
        .unit(unit)
        .height(5)
        .span(width)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .targets(_targets(queries))
    )
    if alarm is not None:
        steps = [Threshold(None, "green"), Threshold(alarm, "red")]
        if warn is not None:
            steps.insert(1, Threshold(warn, "orange"))
        panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    return panel


def bars(
    title: str, says: str, *queries: Query, unit: str = "short", width: int = 12, most: float | None = None
) -> Builder[Panel]:
    """The newest value of each series as a bar."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(says)
        .datasource(_SOURCE)
        .unit(unit)
        .min(0)
        .height(12)
        .span(width)
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .targets(_targets(queries))
    )
    return panel if most is None else panel.max(most)


def board(uid: str, title: str, says: str, *rows: Row) -> Dashboard:
    """A dashboard of titled rows, with the alerts that fired drawn into every graph and links to the other ones."""
    links = dashboard.DashboardLink("Armwise").type(DashboardLinkType.DASHBOARDS).tags(["armwise"])
    alerts = (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(_SOURCE)
        .enable(True)
        .icon_color("red")
        .expr('max by (alertname) (ALERTS{alertname=~"Armwise.*", alertstate="firing"})')
    )
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(says)
        .tags(["armwise"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .annotation(alerts)
        .link(links.as_dropdown(False).keep_time(True).icon("dashboard").tooltip("").url("").target_blank(False))
    )
    for row_title, panels in rows:
        made.with_row(dashboard.Row(row_title))
        for panel in panels:
            made.with_panel(panel)
    built = made.build()
    for place, shown in enumerate(built.panels or [], start=1):
        shown.id_val = place
    return built


def _targets(queries: Sequence[Query]) -> list[Builder[Dataquery]]:
    return [
        prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(letter).datasource(_SOURCE).range()
        for letter, (legend, expr) in zip(ascii_uppercase, queries, strict=False)
    ]
