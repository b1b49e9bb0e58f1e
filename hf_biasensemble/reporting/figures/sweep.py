"""A figure of accuracy by method, with the spread over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hf_biasensemble.reporting.figures.canvas import ALIGNED, CONFLICTING, GROUP_LOOKS, new_figure, save, tidy

_GROUPS = {"aligned_accuracy": ALIGNED, "conflicting_accuracy": CONFLICTING}


def sweep_figure(
    values: Mapping[tuple[str, str], Mapping[str, Sequence[float]]], metrics: Mapping[str, str], file: str | Path
) -> Path:
    """Draws accuracy by method: a point for the mean over seeds, a bar for the standard deviation, a tick per seed.

    `values` are percentages by (data, method) and metric, one per seed; `metrics` are the names to show.
    """
    data = list(dict.fromkeys(name for name, _ in values))
    methods = list(dict.fromkeys(method for _, method in values))
    colors = [GROUP_LOOKS[_GROUPS.get(metric, "All")][0] for metric in metrics]
    figure = new_figure(2.9 * len(data) + 1.6, 0.45 * len(methods) + 1.5)
    panels = figure.subplots(1, len(data), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, data, strict=True):
        for row, method in enumerate(methods):
            for number, (metric, color) in enumerate(zip(metrics, colors, strict=True)):
                seeds = np.asarray(values.get((name, method), {}).get(metric, []))
                if len(seeds):
                    height = row + 0.24 * (number - (len(metrics) - 1) / 2)
                    spread = seeds.std(ddof=1) if len(seeds) > 1 else 0.0
                    panel.plot(seeds, np.full(len(seeds), height), "|", color=color, markersize=6, alpha=0.6)
                    panel.errorbar(seeds.mean(), height, xerr=spread, fmt="o", color=color, capsize=3, markersize=5)
        panel.set_xlim(0, 102)
        panel.set_yticks(range(len(methods)), methods)
        tidy(panel, name, "accuracy (%)", grid="x")
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    marks = [panels[0].plot([], [], "o", color=color)[0] for color in colors]
    figure.legend(marks, list(metrics.values()), loc="outside lower center", ncols=len(metrics), frameon=False)
    return save(figure, file)
