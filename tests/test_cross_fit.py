"""Votes of members that never saw the image: halves are balanced, and nobody votes on what it was trained on."""

from dataclasses import replace

import pytest
import torch
from runs import error_line, selection_inputs, train

from hf_biasensemble.arguments import DebiasingArguments, ModelArguments, SelectionArguments, settled_selection
from hf_biasensemble.data.batches.member_batches import MemberBatches
from hf_biasensemble.data.pixels import ImageSplit
from hf_biasensemble.runs.selecting import make_selection
from hf_biasensemble.selection import Selection


def noise(count: int = 60, classes: int = 3) -> ImageSplit:
    """Images that say nothing of their labels."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (count, 3, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(classes, (count,), generator=generator)
    return ImageSplit(pixels, labels, [str(k) for k in range(classes)], torch.arange(count))


def test_halves_share_no_sample_and_are_balanced_by_class():
    split = noise(61).select(torch.arange(60, -1, -1))
    batches, trained_on = MemberBatches.cross_fitted(split, 4, seed=1)
    assert batches.order.shape == (8, 30) and trained_on.shape == (61, 4)
    for member in range(4):
        first, second = (set(batches.order[number].tolist()) for number in (member, member + 4))
        assert len(first) == len(second) == 30 and not first & second
        assert trained_on[sorted(first), member].all() and not trained_on[sorted(second), member].any()
        labels = split.labels[split.rows]
        for half in (first, second):
            counts = torch.bincount(labels[sorted(half)], minlength=3)
            assert (counts - torch.bincount(labels) / 2).abs().max() <= 1.5
    assert len({tuple(sorted(row.tolist())) for row in batches.order}) == 8


@pytest.mark.slow
def test_members_that_saw_an_image_have_memorised_it_and_others_do_not(digits, tmp_path):
    """On noise, nothing but memory tells the class."""
    found = {}
    for crossed in ("true", "false"):
        selector, inputs, selection_args, args = selection_inputs(
            digits, tmp_path / crossed, cross_fit=crossed, member_steps=150, learning_rate=0.003
        )
        splits = {"train": noise()}
        inputs = replace(inputs, images=splits, encoded={"final": splits})
        selection, _ = make_selection(selector, inputs, selection_args, args, must_serve=False)
        found[crossed] = float(selection.mean_probability.mean())
    assert found["false"] > 0.8
    assert found["true"] < 0.5


def test_votes_are_counted_by_member(digits, tmp_path):
    assert train(digits, tmp_path / "out", "lff_be", cross_fit="true", member_threshold=0.2, member_agreement=1) == 0
    made = Selection.load(tmp_path / "out" / "selection")
    assert made.num_members == 3 and made.votes.max() <= 3 and made.provenance["cross_fit"] is True


@pytest.mark.parametrize("given", [None, True, False])
def test_pretrained_backbones_cross_fit_unless_told_otherwise(tmp_path, given):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"")
    args = DebiasingArguments(output_dir=str(tmp_path))
    options = SelectionArguments(cross_fit=given)
    from_file = ModelArguments(backbone="resnet18", pretrained_weights=str(file))
    assert settled_selection(options, from_file, args).cross_fit is (True if given is None else given)
    assert settled_selection(options, ModelArguments(), args).cross_fit is bool(given)
    published = DebiasingArguments(output_dir=str(tmp_path), published_protocol=True)
    assert settled_selection(options, from_file, published).cross_fit is bool(given)


def test_shared_batches_cannot_be_cross_fitted(digits, tmp_path, capsys):
    assert train(digits, tmp_path / "out", "lff_be", cross_fit="true", share_batches="true") == 2
    assert "--share_batches: expected false with --cross_fit" in error_line(capsys)
