"""Figures of how networks learn: lines in, bytes of a PNG out; the same lines, the same bytes."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from advbench.defenses.fit import Epoch
from advbench.report.drawing import (
    COLOURS,
    columns_of,
    cycled,
    mark,
    png,
    shortened,
    style,
    wrapped,
)

_SPLITS = {"train": COLOURS[1], "validation": COLOURS[2], "test": COLOURS[0]}
_CLEAN, _ATTACKED = "-", (0, (3, 1.5))


class Curve(NamedTuple):
    """How one measure of a network moves: (epochs trained, value) in order.

    ``split`` is "train" or "test", ``measure`` is "accuracy" or "robust".
    """

    network: str
    remedy: str
    split: str
    measure: str
    points: tuple[tuple[int, float], ...]


def learning_curve(title: str, log: Sequence[Epoch]) -> bytes:
    """Draw a training: accuracies as they are and under attack, and losses, on every split."""
    with style():
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        accuracy, loss = figure.subplots(1, 2)
        splits = [name for name in _SPLITS if any(getattr(epoch, name) for epoch in log)]
        attacked = False
        for name in splits:
            colour = _SPLITS[name]
            scores = [(e.number + 1, getattr(e, name)) for e in log if getattr(e, name) is not None]
            robust = [(at, score.robust) for at, score in scores if score.robust is not None]
            attacked = attacked or bool(robust)
            _draw(accuracy, [(at, score.accuracy) for at, score in scores], colour, _CLEAN)
            _draw(accuracy, robust, colour, _ATTACKED)
            _draw(loss, [(at, score.loss) for at, score in scores], colour, _CLEAN)
        _draw(loss, [(epoch.number + 1, epoch.loss) for epoch in log], "#777777", (0, (1, 1.2)))
        _axes(accuracy, "accuracy")
        accuracy.set_ylim(-0.02, 1.02)
        _axes(loss, "loss")
        loss.set_ylim(bottom=0)
        marks = [mark(name, _SPLITS[name], _CLEAN, "") for name in splits]
        marks += [mark("under attack", "#333333", _ATTACKED, "")] if attacked else []
        marks += [mark("minibatches as trained", "#777777", (0, (1, 1.2)), "")]
        figure.suptitle(wrapped(title, 100), fontsize=10)
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
        return png(figure)


def learning_curves(curves: Sequence[Curve]) -> bytes:
    """Draw a study: a row per network, accuracy as it is and under attack, a colour per remedy."""
    networks = list(dict.fromkeys(curve.network for curve in curves))
    remedies = list(dict.fromkeys(curve.remedy for curve in curves))
    colours = dict(zip(remedies, cycled(COLOURS), strict=False))
    measures = [name for name in _MEASURES if any(curve.measure == name for curve in curves)]
    with style():
        width = 4.6 * len(measures) + 0.6
        figure = Figure(figsize=(width, 2.9 * len(networks) + 1.2), layout="constrained")
        grid = figure.subplots(len(networks), len(measures), squeeze=False, sharey=True)
        for network, across in zip(networks, grid, strict=True):
            for measure, axes in zip(measures, across, strict=True):
                for curve in curves:
                    if (curve.network, curve.measure) == (network, measure):
                        dash = _ATTACKED if curve.split == "train" else _CLEAN
                        _draw(axes, curve.points, colours[curve.remedy], dash)
                _axes(axes, "accuracy")
                axes.set_title(f"{shortened(network)}, {_MEASURES[measure]}")
                axes.set_ylim(-0.02, 1.02)
        marks = [mark(shortened(name), colour, _CLEAN, "") for name, colour in colours.items()]
        marks += [mark("test", "#333333", _CLEAN, ""), mark("training", "#333333", _ATTACKED, "")]
        figure.legend(handles=marks, loc="outside upper center", ncols=columns_of(marks, width))
        return png(figure)


_MEASURES = {"accuracy": "as it is", "robust": "under attack"}


def _draw(axes: Axes, points: Sequence[tuple[int, float]], colour: str, dash: object) -> None:
    """Draw a line, or a dot where there is only one point."""
    if points:
        at, values = zip(*points, strict=True)
        dot = "o" if len(points) == 1 else ""
        axes.plot(at, values, color=colour, linestyle=dash, linewidth=1.4, marker=dot, markersize=4)


def _axes(axes: Axes, what: str) -> None:
    axes.set_xlabel("epochs")
    axes.set_ylabel(what)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
