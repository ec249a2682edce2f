"""The table as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from tests.bench.figures import Figures

mpl.use("svg")

from matplotlib import pyplot as plt


def draw(path: Path, title: str, lines: Sequence[Figures]) -> None:
    """Write an SVG: × real time, and CPU seconds for an hour of audio, a bar for each contestant."""
    figure, (speed, work) = plt.subplots(1, 2, figsize=(12, 1.2 + 0.45 * len(lines)), sharey=True, layout="tight")
    names = [line.name for line in lines]
    colours = ["tab:blue" if name.startswith("(a)") else "tab:gray" for name in names]
    _bars(speed, names, [line.realtime for line in lines], colours, "× real time (more is better)")
    _bars(work, names, [line.cpu_seconds_per_audio_hour for line in lines], colours, "CPU seconds an audio hour")
    speed.invert_yaxis()
    figure.suptitle(title)
    figure.savefig(path)
    plt.close(figure)


def _bars(axes: Axes, names: list[str], values: list[float], colours: list[str], label: str) -> None:
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(bars, fmt="{:,.1f}", padding=3)
    axes.set_xlabel(label)
    axes.margins(x=0.15)
