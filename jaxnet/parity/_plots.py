"""Plots of a report as SVG, which take their colours from the page that they stand in."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup, escape

from jaxnet.parity._result import Horizon, SiteResult
from jaxnet.parity._text import ISOLATED, shares

_WIDTH, _HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 40
# Nothing below this is drawn apart: a difference of 0 has no logarithm.
_SMALLEST = 1e-18

_Scale = Callable[[float], float]


@dataclasses.dataclass(frozen=True)
class Line:
    """One series of a plot.

    Attributes:
        name: The name in the legend.
        x, y: The coordinates; y is positive or 0.
        kind: "points", "rings", "line", or "band", the area below.
        style: The name of its colour on the page.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str
    style: str


def shares_against_site(rows: Sequence[tuple[SiteResult, str]]) -> Markup | None:
    """The rounding of both programs and their difference in float64, by site; None without any.

    Args:
        rows: One result for each site, with its label.
    """
    results = [
        result
        for result, label in rows
        if result.level in ISOLATED and label != "downstream" and result.judgement.scale > 0
    ]
    if not results:
        return None
    numbers = range(1, len(results) + 1)
    torch, double, jax = zip(*(shares(result.judgement) for result in results), strict=True)
    failed = [(i, r) for i, r in zip(numbers, results, strict=True) if r.judgement.failed]
    return _plot(
        "Shares of the difference by site",
        "site, in the order of the computation",
        "relative RMS",
        [
            Line("torch32 - torch64", numbers, torch, "points", "torch"),
            Line("jax64 - jax32", numbers, jax, "points", "jax"),
            Line("torch64 - jax64", numbers, double, "points", "double"),
            Line(
                "different",
                [i for i, _ in failed],
                [shares(result.judgement)[1] for _, result in failed],
                "rings",
                "bad",
            ),
        ],
    )


def errors_against_step(horizon: Horizon) -> Markup | None:
    """The distance of the free runs by step, over the band of torch's own rounding."""
    if not horizon.torch:
        return None
    steps = range(1, len(horizon.torch) + 1)
    return _plot(
        "Free runs",
        "updates",
        "distance of all parameters (RMS)",
        [
            Line("torch's own rounding", steps, horizon.torch, "band", "torch"),
            Line("torch32 - jax32", steps, horizon.plain, "line", "double"),
            Line("jax32 - jax64", steps, horizon.jax, "line", "jax"),
            Line(
                "a hundredth of the way from the start",
                steps,
                [m / 100 for m in horizon.moved],
                "line",
                "bad",
            ),
        ],
    )


def _plot(title: str, xlabel: str, ylabel: str, lines: Sequence[Line]) -> Markup:
    """A plot with a logarithmic y axis, and its legend."""
    values = [y for line in lines for y in line.y if y > _SMALLEST and math.isfinite(y)]
    zeros = any(y <= _SMALLEST for line in lines for y in line.y)
    low = math.floor(math.log10(min(values, default=1e-16))) - zeros
    high = max(math.ceil(math.log10(max(values, default=1.0))), low + 1)
    xs = [x for line in lines for x in line.x]
    first, last = min(xs), max(max(xs), min(xs) + 1)

    def across(x: float) -> float:
        return _LEFT + (x - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        power = math.log10(min(max(y, 10.0**low), 10.0**high)) if not math.isnan(y) else high
        return _HEIGHT - _BOTTOM - (power - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [*_axes(low, high, first, last, across, up, zeros)]
    parts += [_drawn(line, across, up) for line in lines if line.x]
    words = {"x": _WIDTH / 2, "y": _HEIGHT - 4}
    parts.append(f'<text x="{words["x"]}" y="{words["y"]}" class="middle">{escape(xlabel)}</text>')
    parts.append(
        f'<text transform="translate(12 {_HEIGHT / 2 - 10}) rotate(-90)" class="middle">'
        f"{escape(ylabel)}</text>"
    )
    legend = "".join(
        f'<span><i class="{line.style} {line.kind}"></i>{escape(line.name)}</span>'
        for line in lines
        if line.x
    )
    return Markup(  # every text in it is escaped above, or is a number
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg><figcaption>{legend}</figcaption></figure>"
    )


def _axes(
    low: int, high: int, first: float, last: float, across: _Scale, up: _Scale, zeros: bool
) -> Iterator[str]:
    """Lines at powers of 10 with their labels, 0 below them, and the numbers of the x axis."""
    every = max(1, math.ceil((high - low) / 8))
    for power in range(low, high + 1, every):
        y = up(10.0**power)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        label = "0" if zeros and power == low else f"1e{power}"
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="end">{label}</text>'
    size = 10 ** max(0, math.floor(math.log10(max(last - first, 1) / 4)))
    step = next(size * n for n in (1, 2, 5, 10) if (last - first) / (size * n) <= 8)
    for x in sorted({int(first), *range(step, int(last) + 1, step)}):
        yield f'<text x="{across(x):.1f}" y="{_HEIGHT - _BOTTOM + 16}" class="middle">{x}</text>'


def _drawn(line: Line, across: _Scale, up: _Scale) -> str:
    at = [(across(x), up(y)) for x, y in zip(line.x, line.y, strict=True)]
    if line.kind == "rings":
        return "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="{line.style} rings"/>' for x, y in at
        )
    if line.kind == "points":  # strokes of no length with round ends: one element for all of them
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in at)
    else:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    if line.kind == "band":
        bottom = _HEIGHT - _BOTTOM
        path += f"L{at[-1][0]:.1f} {bottom}L{at[0][0]:.1f} {bottom}Z"
    return f'<path d="{path}" class="{line.style} {line.kind}"/>'
