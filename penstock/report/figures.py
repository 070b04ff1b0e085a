"""The report's figures, as plotly's JSON; the page draws them.

Excluded: numbers. Each function draws what it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.mapper.model.evaluate import Pipeline
from penstock.sim.engine import Event

__all__ = [
    "Cloud",
    "Colours",
    "Figure",
    "bars",
    "palette",
    "roofline_figure",
    "scatter",
    "steady_state",
    "waterfall",
]

COLOURS = (
    "#0b6e8f", "#e07a3f", "#4b9b58", "#b5508c", "#8c7a2f", "#5a67c8",
    "#c2453f", "#3aa6a0", "#9b6b43", "#7d8590", "#a0b429", "#d48fb7",
)  # fmt: skip
MAX_EVENTS = 6000

Colours = Mapping[str, str]
"""Name → colour: one Einsum or tensor has one colour in all figures of a page."""


def palette(names: Iterable[str]) -> dict[str, str]:
    """Give each name a colour, in order, over and over."""
    return {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(dict.fromkeys(names))}


@dataclass(frozen=True)
class Figure:
    """A figure and what it shows.

    Args:
        spec: plotly's JSON, ``{"data": [...], "layout": {...}}``, safe inside a ``<script>``.
        height: in CSS pixels.
        caption: what the reader should see.
    """

    spec: str
    height: int
    caption: str


def _figure(figure: Any, height: int, caption: str) -> Figure:
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 60, "r": 20, "t": 16, "b": 46},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={
            "orientation": "h",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0,
            "traceorder": "normal",
        },
    )
    grid = {"gridcolor": "rgba(128,128,128,.22)", "zerolinecolor": "rgba(128,128,128,.4)"}
    figure.update_xaxes(**grid)
    figure.update_yaxes(automargin=True, title_standoff=10, **grid)
    return Figure(figure.to_json().replace("</", "<\\/"), height, caption)


def bars(
    values: Mapping[str, Mapping[str, float]], unit: str, colours: Colours, caption: str
) -> Figure:
    """Draw stacked horizontal bars: row → (part → value), parts in the order of `colours`."""
    import plotly.graph_objects as go

    present = {part for row in values.values() for part in row}
    parts = [part for part in colours if part in present]
    figure = go.Figure()
    for part in parts:
        figure.add_bar(
            y=list(values),
            x=[row.get(part, 0.0) for row in values.values()],
            name=part,
            orientation="h",
            marker_color=colours[part],
            hovertemplate=f"%{{y}}, {part}: %{{x:.4s}} {unit}<extra></extra>",
        )
    figure.update_layout(barmode="stack", xaxis_title=unit, showlegend=len(parts) > 1)
    figure.update_xaxes(exponentformat="SI")
    figure.update_yaxes(autorange="reversed", fixedrange=True)
    return _figure(figure, 110 + 30 * len(values), caption)


def roofline_figure(
    intensity: float,
    peak: float,
    bandwidth: float,
    achieved: float,
    caption: str,
) -> Figure:
    """Draw the roofline of a machine with one design in it.

    Args:
        intensity: operations per byte of the cascade (compulsory traffic).
        peak: operations per second.
        bandwidth: bytes per second.
        achieved: operations per second that the model gives the design.
        caption: what the reader should see.
    """
    import plotly.graph_objects as go

    ridge = peak / bandwidth
    low, high = min(intensity, ridge) / 16, max(intensity, ridge) * 16
    figure = go.Figure()
    figure.add_scatter(
        x=[low, ridge, high],
        y=[low * bandwidth, peak, peak],
        mode="lines",
        name="roof (bound)",
        line={"color": COLOURS[0], "width": 3},
        hovertemplate="%{x:.3g} op/B: %{y:.3s}op/s<extra>roof</extra>",
    )
    figure.add_scatter(
        x=[intensity],
        y=[achieved],
        mode="markers",
        name="this design (model)",
        marker={"color": COLOURS[1], "size": 13, "symbol": "diamond"},
        hovertemplate="%{x:.3g} op/B: %{y:.3s}op/s<extra>this design</extra>",
    )
    intensity_axis = "arithmetic intensity, operations per byte of DRAM"
    figure.update_xaxes(**_log([low, high]), title=intensity_axis, tickformat="~g")
    figure.update_yaxes(
        **_log([low * bandwidth, peak, achieved]), title="operations per second", tickformat="~s"
    )
    return _figure(figure, 330, caption)


def _log(values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis with ticks that have room."""
    shown = [each for each in values if each > 0]
    decades = math.log10(max(shown) / min(shown)) if shown else 0.0
    if decades < 1:
        return {"type": "log"}
    return {"type": "log", "dtick": "D2" if decades < 4 else math.ceil(decades / 8)}


@dataclass(frozen=True)
class Cloud:
    """Points of one colour: where they are, what hovering over each says (HTML), what it opens."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    hover: Sequence[str]
    opens: Sequence[str] = ()


def scatter(clouds: Sequence[Cloud], x_title: str, y_title: str, caption: str) -> Figure:
    """Draw points on logarithmic axes, the last cloud on top and highlighted."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for cloud in clouds:
        last = cloud is clouds[-1]
        figure.add_scatter(
            x=list(cloud.x),
            y=list(cloud.y),
            mode="markers",
            name=cloud.name,
            marker={
                "color": COLOURS[1] if last else COLOURS[9],
                "size": 11 if last else 6,
                "symbol": "diamond" if last else "circle",
                "opacity": 1.0 if last else 0.55,
            },
            hovertext=list(cloud.hover),
            customdata=list(cloud.opens) or None,
            hovertemplate="%{hovertext}<extra></extra>",
            hoverlabel={"align": "left"},
        )
    prefixes = {"exponentformat": "SI"}
    figure.update_xaxes(**_log([x for each in clouds for x in each.x]), title=x_title, **prefixes)
    figure.update_yaxes(**_log([y for each in clouds for y in each.y]), title=y_title, **prefixes)
    return _figure(figure, 420, caption)


def waterfall(
    events: Sequence[Event], units: Sequence[str], colours: Colours, caption: str
) -> Figure:
    """Draw what each unit does in each cycle, a colour for each Einsum or transfer."""
    import plotly.graph_objects as go

    shown = [event for event in events if event.task.cycles > 0][:MAX_EVENTS]
    figure = go.Figure()
    present = {event.task.name for event in shown}
    for name in (each for each in colours if each in present):
        mine = [event for event in shown if event.task.name == name]
        figure.add_bar(
            y=[event.task.unit for event in mine],
            x=[event.task.cycles for event in mine],
            base=[event.start for event in mine],
            name=name,
            orientation="h",
            marker={"color": colours[name], "line": {"width": 0}},
            customdata=[
                [event.start, event.end, event.cause or "ready at once", _box(event)]
                for event in mine
            ],
            hovertemplate=(
                f"{name} on %{{y}}<br>cycles %{{customdata[0]:.0f}} to %{{customdata[1]:.0f}}"
                "<br>%{customdata[3]}<br>waited for: %{customdata[2]}<extra></extra>"
            ),
        )
    figure.update_layout(barmode="overlay", bargap=0.25, xaxis_title="cycle")
    order = {"categoryorder": "array", "categoryarray": list(units)[::-1]}
    figure.update_yaxes(fixedrange=True, **order)  # a drag zooms in time
    left_out = len([event for event in events if event.task.cycles > 0]) - len(shown)
    more = f" The first {MAX_EVENTS:,} events; {left_out:,} more are left out." if left_out else ""
    return _figure(figure, 150 + 48 * len(units), caption + more)


def steady_state(pipeline: Pipeline, arrays: Sequence[str], colours: Colours) -> Figure:
    """Draw two intervals of a pipelined loop: which tile each array works on, and for what."""
    import plotly.graph_objects as go

    interval, figure = pipeline.interval_cycles, go.Figure()
    for task, first in zip(pipeline.tasks, pipeline.starts, strict=True):
        before = math.ceil((first + task.cycles) / interval)
        seen = []
        for number in range(-before, 2):
            start = first + number * interval
            low, high = max(start, 0.0), min(start + task.cycles, 2 * interval)
            if high > low:
                tile = number - task.stage
                seen.append((low, high, f"n{tile:+}" if tile else "n"))
        figure.add_bar(
            y=[task.array] * len(seen),
            x=[high - low for low, high, _ in seen],
            base=[low for low, *_ in seen],
            name=task.name,
            orientation="h",
            marker={"color": colours.get(task.name), "line": {"width": 0}},
            text=[f"{task.name} of {tile}" for *_, tile in seen],
            textposition="inside",
            insidetextanchor="middle",
            customdata=[[low, high, tile] for low, high, tile in seen],
            hovertemplate=(
                f"{task.name} of tile %{{customdata[2]}} on %{{y}}"
                "<br>cycles %{customdata[0]:,.0f} to %{customdata[1]:,.0f}<extra></extra>"
            ),
        )
    figure.update_layout(
        barmode="overlay",
        bargap=0.25,
        xaxis_title="cycle",
        uniformtext={"minsize": 9, "mode": "hide"},
        shapes=[
            {"type": "line", "x0": interval, "x1": interval, "y0": 0, "y1": 1, "yref": "paper"}
            | {"line": {"dash": "dot", "width": 1, "color": COLOURS[9]}}
        ],
    )
    used = [name for name in arrays if name in {task.array for task in pipeline.tasks}]
    order = {"categoryorder": "array", "categoryarray": used[::-1]}
    figure.update_yaxes(fixedrange=True, **order)
    return _figure(
        figure,
        150 + 48 * len(used),
        f"The modulo schedule of '{pipeline.loop}' (model): two intervals of {interval:,.0f} "
        f"cycles in mid run, set by {pipeline.binding}. Tile n enters; the others are under way.",
    )


def _box(event: Event) -> str:
    sides = (f"{name} {start}..{stop - 1}" for name, (start, stop) in event.task.box)
    return ", ".join(sides) or f"{event.task.bytes:,.0f} bytes"
