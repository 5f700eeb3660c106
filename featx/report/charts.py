"""The charts of a page, as Vega-Lite specifications that Altair checks, and the JavaScript that draws them.

The data come later, in the browser: each chart names the tables that it reads, and has parameters that the page sets.
"""

import functools
from collections.abc import Sequence
from typing import Any

from featx.errors import MissingExtraError
from featx.evaluation.figure import COLORS
from featx.evaluation.reliability import Reliability

try:
    import altair as alt
    import vl_convert
except ImportError as _error:
    _msg = f"reports need another package: pip install 'featx[report]' ({_error})"
    raise MissingExtraError(_msg) from _error

#: Of what is right, and of what is wrong.
RIGHT, WRONG = COLORS[:2]

_GREY = "#808080"

#: Up to so many classes, the cells hold their counts.
_MOST_COUNTED = 30

#: Up to so many classes, cells have room for a name above them: level if names are short, slanted if not.
_FEW, _SHORT = 8, 5

#: Cells of so many px have room for larger digits.
_ROOMY = 24

#: The page needs Vega-Embed alone; without `window`, nothing else is public.
_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@functools.cache
def bundle_javascript() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script for a `<script>` element; making it takes a second."""
    return str(vl_convert.javascript_bundle(_SNIPPET))


def make_map() -> dict[str, Any]:
    """Make the map: tables `points`, `chosen` and `spot` with `i`, `x`, `y`, `colour` and `shape`.

    The parameter `dim` is whether the points that are not chosen step back, and `size` the area of a point in px. The
    page draws the lasso over it.
    """
    x, y = (alt.X("x:Q", axis=None, scale=_fit()), alt.Y("y:Q", axis=None, scale=_fit()))

    def draw(table: str, size: str, opacity: Any, stroke: Any) -> Any:  # noqa: ANN401 - values of Altair
        return (
            alt.Chart(alt.NamedData(table))
            .mark_point(filled=True, stroke=stroke, strokeWidth=1, size=alt.expr(size))
            .encode(
                x=x,
                y=y,
                color=alt.Color("colour:N", scale=None),
                shape=alt.Shape("shape:N", scale=None),
                opacity=opacity,
                tooltip=alt.Tooltip("i:Q"),
            )
        )

    points = draw("points", "size", alt.condition("dim", alt.value(0.2), alt.value(0.8)), None)
    chosen, spot = (
        draw(table, size, alt.value(1), _GREY) for table, size in (("chosen", "1.3 * size"), ("spot", "260"))
    )
    chart = alt.layer(points, chosen, spot)
    chart = chart.add_params(alt.param(name="dim", value=False), alt.param(name="size", value=45))
    return _finish(chart, 420, "Map of the embeddings: one point for each item, near each other where items look alike")


def _fit() -> alt.Scale:
    return alt.Scale(zero=False, nice=False, padding=12)


def make_confusion(shown: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Make the confusion matrix: table `cells` with `t` and `p`, positions of classes, `n` items and their `share`.

    The parameters `chosen_t` and `chosen_p` are the cell that has an outline; -1 for none.

    Args:
        shown: The classes in it, by position.
        names: The names of all classes.
    """
    counted = len(shown) <= _MOST_COUNTED
    step = min(90.0, max(520 / len(shown), 20 if counted else 0.6))
    angle = -90 if len(shown) > _FEW else 0 if max(map(len, names), default=0) <= _SHORT else -40
    axis = alt.Axis(
        labelExpr="names[datum.value]", labelLimit=150, labelAngle=angle,
        ticks=False, domain=False, orient="top", labelOverlap=not counted,
    )  # fmt: skip
    x = alt.X("p:O", title="predicted", scale=alt.Scale(domain=list(shown), paddingInner=0.04), axis=axis)
    rows = axis.copy()
    rows.labelAngle, rows.orient = 0, "left"
    y = alt.Y("t:O", title="true", scale=alt.Scale(domain=list(shown), paddingInner=0.04), axis=rows)
    # On a linear scale, the few confused items of a good classifier would be invisible.
    shades = alt.Scale(type="pow", exponent=0.4, domain=[0, 1], range=[0.06, 1])
    base = alt.Chart(alt.NamedData("cells")).encode(x=x, y=y)
    cells = base.mark_rect(stroke="currentColor", strokeWidth=0, cursor="pointer").encode(
        color=alt.condition("datum.t == datum.p", alt.value(RIGHT), alt.value(WRONG)),
        fillOpacity=alt.FillOpacity("share:Q", legend=None, scale=shades),
        strokeWidth=alt.condition("datum.t == chosen_t && datum.p == chosen_p", alt.value(2), alt.value(0)),
        tooltip=alt.Tooltip("n:Q"),
    )
    chart: Any = cells
    if counted:
        text = base.mark_text(baseline="middle", fontSize=12 if step > _ROOMY else 9, cursor="pointer").encode(
            text=alt.Text("n:Q"),
            color=alt.condition("datum.share > 0.3", alt.value("white"), alt.value("currentColor")),
            tooltip=alt.Tooltip("n:Q"),
        )
        chart = alt.layer(chart, text)
    params = {"names": list(names), "chosen_t": -1, "chosen_p": -1}
    chart = chart.add_params(*(alt.param(name=name, value=value) for name, value in params.items()))
    return _finish(chart, alt.Step(step), "Confusion matrix: true classes down, predicted classes across")


def make_curve(x: str, y: str, *, is_roc: bool) -> dict[str, Any]:
    """Make a chart of curves: tables `others`, `curve` and `point` with `c`, `x` and `y`.

    Args:
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        is_roc: Whether steps go up before they go right.
    """
    encoding = {
        "x": alt.X("x:Q", title=x, scale=alt.Scale(domain=[0, 1])),
        "y": alt.Y("y:Q", title=y, scale=alt.Scale(domain=[0, 1])),
    }
    step: Any = "step-after" if is_roc else "linear"
    others = alt.Chart(alt.NamedData("others")).mark_line(color=_GREY, opacity=0.4, strokeWidth=1, interpolate=step)
    curve = alt.Chart(alt.NamedData("curve")).mark_line(color=RIGHT, strokeWidth=2.5, interpolate=step)
    point = alt.Chart(alt.NamedData("point")).mark_point(color=WRONG, filled=True, size=90)
    chart = alt.layer(
        others.encode(**encoding, detail="c:N"), curve.encode(**encoding, order="k:Q"), point.encode(**encoding)
    )
    return _finish(chart, 300, f"{y} against {x}")


def make_reliability(reliability: Reliability) -> dict[str, Any]:
    """Make the chart of how often predictions are right at each level of confidence, with 95 % intervals."""
    columns = (getattr(reliability, name).tolist() for name in ("confidences", "accuracies", "lows", "highs", "counts"))
    names = ("confidence", "share right", "low", "high", "items")
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True) if row[4]]
    start = reliability.start
    diagonal = alt.Chart(alt.InlineData([{"x": end, "y": end} for end in (start, 1.0)])).mark_line(
        color=_GREY, strokeDash=[4, 4], strokeWidth=1
    )
    base = alt.Chart(alt.InlineData(rows))
    ends = alt.Scale(domain=[start, 1])
    bars = base.mark_rule(color=RIGHT, opacity=0.6).encode(
        x=alt.X("confidence:Q", scale=ends, title="probability of the predicted class"),
        y=alt.Y("low:Q", scale=ends, title="share that is right"),
        y2="high:Q",
    )
    points = base.mark_point(color=RIGHT, filled=True).encode(
        x="confidence:Q",
        y=alt.Y("share right:Q"),
        size=alt.Size("items:Q", legend=None, scale=alt.Scale(range=[30, 160])),
    )
    chart = alt.layer(diagonal.encode(x="x:Q", y="y:Q"), bars, points)
    return _finish(chart, 300, "Reliability: share of right predictions against their probability")


def _finish(chart: Any, height: Any, description: str) -> dict[str, Any]:  # noqa: ANN401 - any chart of Altair
    made = chart.properties(width="container", height=height).to_dict(validate=True)
    # The defaults of Altair's theme are left out: the page has its own.
    return {**{key: value for key, value in made.items() if key != "config"}, "description": description}
