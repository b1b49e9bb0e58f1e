"""A histogram of the votes of the biased members."""

from pathlib import Path

import numpy as np

from hf_biasensemble.reporting.figures.canvas import ALIGNED, CONFLICTING, GREY, GROUP_LOOKS, new_figure, save, tidy
from hf_biasensemble.selection import Selection

_BINS = 20


def selection_histogram(selection: Selection, file: str | Path) -> Path:
    """Draws the number of training images by mean member probability and by votes, on a logarithmic scale, by group if
    known."""
    groups = {"All": np.ones(len(selection.index), dtype=bool)}
    if selection.is_conflicting is not None:
        groups = {ALIGNED: ~selection.is_conflicting, CONFLICTING: selection.is_conflicting}
    edges = np.linspace(0, 1, _BINS + 1)
    votes = np.arange(selection.num_members + 1)
    figure = new_figure(9.4, 3.3)
    by_probability, by_votes = figure.subplots(1, 2, sharey=True, width_ratios=[1.6, 1])
    for number, (name, members) in enumerate(groups.items()):
        color, _ = GROUP_LOOKS[name]
        counts, _ = np.histogram(selection.mean_probability[members], edges)
        of_votes = np.bincount(selection.votes[members], minlength=len(votes))
        for panel, left, slot, heights in (
            (by_probability, edges[:-1], 1 / _BINS, counts),
            (by_votes, votes - 0.5, 1.0, of_votes),
        ):
            width = 0.84 * slot / len(groups)
            panel.bar(
                left + 0.08 * slot + number * width, heights, width, align="edge", color=color, label=f"{name} images"
            )
    tidy(by_probability, "Mean probability of the image's own class", "mean over the members", "training images")
    by_probability.set_yscale("log")
    by_probability.yaxis.set_major_formatter("{x:,.0f}")
    for panel in (by_probability, by_votes):
        panel.minorticks_off()
    by_probability.set_ylim(bottom=0.7)  # so that a bar of one image is visible
    by_probability.set_xlim(0, 1)
    tidy(by_votes, "Votes", "members confident of the image's class")
    by_votes.set_xticks(votes if len(votes) <= 12 else votes[:: -(-len(votes) // 12)])
    kept = np.flatnonzero(selection.is_selected)
    if len(kept) and selection.provenance.get("member_keep") is None:  # with it, votes do not decide
        fewest = selection.votes[kept].min()
        by_votes.axvline(fewest - 0.5, color=GREY, linestyle="--", linewidth=1.2, label="kept: right of the line")
    handles, labels = by_votes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=11)
    return save(figure, file)
