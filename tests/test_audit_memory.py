"""What the votes of the members take in memory: nothing that grows with the images but a few numbers of each."""

import numpy as np
import torch
from test_cost import Operators

from benchmarks.trainers import Setting, random_split, trainer
from hf_biasensemble.data.prepare import image_transform
from hf_biasensemble.evaluation import classifier as evaluation
from hf_biasensemble.evaluation.classifier import predict_logits


def test_votes_of_many_blocks_are_those_of_one(monkeypatch):
    split = random_split(2_000, 4).select(torch.randperm(2_000)[:1_500])
    with trainer("members", split, Setting(image_size=4), 1, num_members=3) as built:
        at_once = built.member_votes()
        monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", 1)  # a batch at a time
        in_blocks = built.member_votes()
    assert at_once.keys() == in_blocks.keys() and at_once["member_probabilities"].shape == (1_500, 3)
    for name, values in at_once.items():
        assert np.array_equal(values, in_blocks[name]), name


def test_votes_of_more_images_need_no_larger_tensor(monkeypatch):
    """The logits of all images, members and classes are never there at once."""
    monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", 1)  # a batch at a time

    def largest(samples: int) -> int:
        with trainer("members", random_split(samples, 4), Setting(image_size=4), 1, num_members=3) as built:
            with Operators() as operators:
                votes = built.member_votes()
        assert votes["member_probabilities"].shape == (samples, 3)
        return operators.largest

    assert largest(6_400) == largest(640) > 0


def test_logits_of_the_batches_are_not_there_twice():
    split, transform = random_split(640, 4), image_transform(Setting(image_size=4).model_args())
    with trainer("erm", split, Setting(image_size=4), 1) as built, Operators() as operators:
        logits = predict_logits(built.model, split, transform, 64)
    assert logits.shape == (640, 10)
    assert operators.counts["cat"] == 0  # neither of the features in a batch nor of all logits at the end
