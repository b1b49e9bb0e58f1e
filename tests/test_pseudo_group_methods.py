"""JTT, GroupDRO and last layer retraining through their real trainers, against a naive loop of each algorithm."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
from runs import error_line, results, train
from safetensors.torch import load_file
from synthetic import CLASS_NAMES
from test_disent import random_split

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.data.batches.sampling import WeightedSampler
from hf_biasensemble.data.batches.transforms import ImageTransform
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.methods import METHODS
from hf_biasensemble.selection import Selection
from hf_biasensemble.selectors.erm_errors import SELECTOR as ERM_ERRORS
from hf_biasensemble.trainers.pseudo_groups import balanced_weights

STEPS, BATCH, RATE = 12, 16, 0.003
EPSILON = 1e-4  # or Adam divides rounding errors of gradients near 0 by themselves
TRANSFORM = ImageTransform((0.5,) * 3, (0.25,) * 3)


def selection_of(split, seed=3) -> Selection:
    """Predictions that are right for about three of four samples."""
    draws = np.random.default_rng(seed)
    labels = split.labels.numpy()
    other = draws.integers(len(split.class_names), size=len(labels))
    predicted = np.where(draws.random(len(labels)) < 0.25, other, labels)
    right = predicted == labels
    votes, probability = right.astype(int), right.astype(np.float32)
    return Selection(np.arange(len(labels)), labels, votes, probability, right, {}, predicted_labels=predicted)


def recorded_run(method: str, tmp_path, backbone: str = "mlp", **changes):
    """Trains the method; gives the network before and after, the batches it met and its losses, by step."""
    split = random_split()
    given = {
        **{"output_dir": str(tmp_path), "max_steps": STEPS, "per_device_train_batch_size": BATCH, "logging_steps": 1},
        **{"learning_rate": RATE, "adam_epsilon": EPSILON, "eval_strategy": "no", "save_strategy": "no"},
        **{"use_cpu": True, "disable_tqdm": True},
    }
    descriptor = METHODS[method]
    batches = []

    class Recording(descriptor.trainer):
        def training_terms(self, model, batch):
            batches.append({name: value.clone() for name, value in batch.items()})
            return super().training_terms(model, batch)

    size = split.pixels.shape[-1]
    network = descriptor.network(ModelArguments(backbone=backbone, image_size=size), split.class_names, 7)
    before = copy.deepcopy(network)
    selection = selection_of(split)
    trainer = Recording(
        network, descriptor.arguments(**given | changes), TRANSFORM, train_dataset=split, selection=selection
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return before, trainer, batches, losses, selection


def draws_of(trainer, epochs: int) -> list[int]:
    """What the trainer's sampler draws in so many epochs."""
    sampler, drawn = trainer.train_sampler(), []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        drawn += list(sampler)
    return drawn


def naive_loss(network, image: torch.Tensor, label: int) -> torch.Tensor:
    scores = network(image[None]).logits[0]
    return torch.log(torch.exp(scores).sum()) - scores[label]


def mean_loss(network, batch) -> torch.Tensor:
    terms = [naive_loss(network, x, int(y)) for x, y in zip(batch["pixel_values"], batch["labels"], strict=True)]
    return torch.stack(terms).mean()


def adam_steps(parameters, batches, loss_of) -> list[float]:
    """The losses of plain steps of Adam, one for each batch."""
    adam, losses = torch.optim.Adam(parameters, lr=RATE, eps=EPSILON), []
    for batch in batches:
        loss = loss_of(batch)
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    return losses


def assert_same(ours, theirs, losses, naive_losses):
    assert losses == pytest.approx(naive_losses, abs=1e-5)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-5, rtol=0)


def test_group_dro_is_the_algorithm_of_the_paper(tmp_path):
    before, trainer, batches, losses, selection = recorded_run("group_dro_be", tmp_path, group_step_size=0.3)
    groups = {}
    for row, pair in enumerate(zip(selection.labels.tolist(), selection.predicted_labels.tolist(), strict=True)):
        groups.setdefault(pair, set()).add(row)
    q = dict.fromkeys(groups, 1 / len(groups))

    def loss_of(batch):
        nonlocal q
        group_loss = {}
        for group, rows in groups.items():
            own = [k for k, row in enumerate(batch["index"].tolist()) if row in rows]
            if own:
                of_group = [naive_loss(before, batch["pixel_values"][k], int(batch["labels"][k])) for k in own]
                group_loss[group] = torch.stack(of_group).mean()
        for group, loss in group_loss.items():
            q[group] *= math.exp(0.3 * loss.item())
        total = sum(q.values())
        q = {group: value / total for group, value in q.items()}
        return sum(q[group] * value for group, value in group_loss.items())

    naive_losses = adam_steps(before.parameters(), batches, loss_of)
    assert len(groups) > len(CLASS_NAMES) and len(set(q.values())) > 2
    assert_same(trainer.model, before, losses, naive_losses)


def test_jtt_is_ordinary_training_on_draws_that_favour_errors(tmp_path):
    before, trainer, batches, losses, selection = recorded_run("jtt", tmp_path, upweight=9.0)
    naive_losses = adam_steps(before.parameters(), batches, lambda batch: mean_loss(before, batch))
    assert_same(trainer.model, before, losses, naive_losses)
    wrong = set(np.flatnonzero(~selection.is_selected).tolist())
    drawn = [row in wrong for row in draws_of(trainer, 40)]
    expected = 9 * len(wrong) / (9 * len(wrong) + len(selection.index) - len(wrong))
    assert np.mean(drawn) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("backbone", ["mlp", "test_resnet"])
def test_last_layer_alone_is_trained_on_balanced_groups(tmp_path, backbone):
    before, trainer, batches, losses, selection = recorded_run("last_layer_be", tmp_path, backbone)
    started = copy.deepcopy(before)
    before.eval()
    naive_losses = adam_steps(before.classifier.parameters(), batches, lambda batch: mean_loss(before, batch))
    assert_same(trainer.model, before, losses, naive_losses)
    for name, value in started.encoder.state_dict().items():  # batch normalisation's statistics included
        assert torch.equal(trainer.model.encoder.state_dict()[name], value), name
    assert not torch.equal(trainer.model.classifier.weight, started.classifier.weight)
    pairs = list(zip(selection.labels.tolist(), selection.predicted_labels.tolist(), strict=True))
    drawn = Counter(pairs[row] for row in draws_of(trainer, 150))
    for pair, count in drawn.items():  # no group is so small that the limit on single images matters
        of_class = {other for other in pairs if other[0] == pair[0]}
        expected = 1 / (len({label for label, _ in pairs}) * len(of_class))
        assert count / sum(drawn.values()) == pytest.approx(expected, abs=0.02)


def test_draws_follow_weights_and_depend_on_seed_and_epoch_only():
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0, 4.0])
    sampler = WeightedSampler(weights.repeat(500), seed=1)
    drawn = torch.bincount(torch.tensor(list(sampler)) % 5, minlength=5) / len(sampler)
    assert drawn.tolist() == pytest.approx([0, 1 / 8, 3 / 8, 0, 1 / 2], abs=0.04) and drawn[0] == drawn[3] == 0
    again = WeightedSampler(weights.repeat(500), seed=1)
    assert list(again) == list(sampler)
    again.set_epoch(1)
    assert list(again) != list(sampler)
    assert list(WeightedSampler(weights.repeat(500), seed=2)) != list(sampler)


def test_single_images_are_no_third_of_all_draws():
    """Six classes of 300; five images of the first are taken for one other class each."""
    labels = np.repeat(np.arange(6), 300)
    predicted = labels.copy()
    predicted[1:6] = np.arange(1, 6)
    for label in range(1, 5):
        predicted[300 * label : 300 * label + 8] = (label + 1) % 6
    weights = balanced_weights(6 * labels + predicted, labels)
    assert np.bincount(labels, weights) == pytest.approx(np.full(6, 1 / 6))
    assert weights[1:6] == pytest.approx(np.full(5, 20 / 1800)) and weights.max() <= 20 / 1800 + 1e-12
    assert weights[[0, *range(6, 300)]].sum() == pytest.approx(1 / 6 - 5 * 20 / 1800)
    for label in range(1, 5):
        own = slice(300 * label, 300 * label + 8)
        assert weights[own].sum() == pytest.approx(1 / 12) and np.ptp(weights[own]) == 0
    assert weights[1500:] == pytest.approx(np.full(300, 1 / 1800))


def test_a_class_of_few_images_is_drawn_at_most_so_much_more_often():
    labels = np.array([0] * 990 + [1] * 10)
    groups = labels.copy()
    groups[999] = 2
    weights = balanced_weights(groups, labels)
    assert weights[990:] == pytest.approx(np.full(10, 20 / 1000)) and weights.sum() == pytest.approx(1)


def test_pseudo_groups_are_those_of_class_and_opinion():
    index = np.array([4, 0, 2])
    labels, predicted = np.array([1, 0, 1]), np.array([1, 1, 0])
    made = Selection(index, labels, labels, labels, np.array([True, False, False]), {}, predicted_labels=predicted)
    groups, count = made.pseudo_groups("predicted", 6)
    assert count == 3 and len({groups[4], groups[0], groups[2]}) == 3 and groups[[1, 3, 5]].tolist() == [0, 0, 0]
    groups, count = made.pseudo_groups("selected", 6)
    assert count == 3 and groups[4] != groups[2]


def test_errors_of_the_first_classifier_are_what_it_gets_wrong(finished):
    made = Selection.load(finished("jtt") / "selection")
    assert np.array_equal(made.is_selected, made.predicted_labels == made.labels)
    assert 0 < made.is_selected.sum() < len(made.index) and made.num_members == 1
    assert results(finished("jtt"))["selection_size"] == made.is_selected.sum()


@pytest.mark.parametrize("all_right", [True, False])
def test_a_first_classifier_that_tells_nothing_is_refused(all_right):
    right = np.full(5, all_right)
    made = Selection(np.arange(5), right, right, right, right, {})
    advice = "right; lower" if all_right else "wrong; raise"
    with pytest.raises(BiasEnsembleError, match=f"all 5 {advice} --first_stage_steps"):
        ERM_ERRORS.check(made, CLASS_NAMES)


def test_last_layer_needs_a_run_to_start_from(digits, finished, tmp_path, capsys):
    start = {"init_from": ""}
    assert train(digits, tmp_path / "out", "last_layer_be", **start) == 2
    assert "--init_from: expected the folder of a finished run of erm" in error_line(capsys)
    assert train(digits, tmp_path / "out", "last_layer_be", init_from=tmp_path / "none") == 2
    assert f"--init_from {tmp_path / 'none'}: expected a folder or Hub id" in error_line(capsys)
    assert train(digits, tmp_path / "out", "last_layer_be", init_from=finished("disent")) == 2
    assert "with as many encoders" in error_line(capsys)


def test_last_layer_keeps_the_encoder_of_the_run_it_starts_from(finished):
    ours = load_file(finished("last_layer_be") / "model.safetensors")
    start = load_file(finished("last_layer_be").parent / "last_layer_be_start" / "model.safetensors")
    assert ours.keys() == start.keys()
    different = [name for name in ours if not torch.equal(ours[name], start[name])]
    assert different and all(name.startswith("classifier.") for name in different)


@pytest.mark.parametrize("part", ["whole", "encoder", "head"])
def test_a_run_starts_from_a_part_of_another(digits, finished, tmp_path, part):
    start = {"init_from": finished("erm"), "init_part": part, "learning_rate": 1e-12, "max_steps": 1}
    assert train(digits, tmp_path / "out", "erm", **start) == 0
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (finished("erm"), tmp_path / "out"))
    taken = {name for name in ours if torch.allclose(ours[name], theirs[name], atol=1e-9)}
    heads = {name for name in ours if name.startswith("classifier.")}
    assert taken == {"whole": set(ours), "encoder": set(ours) - heads, "head": heads}[part]


def test_a_timm_classifier_is_a_start_as_well(digits, tmp_path):
    network = {"backbone": "test_resnet", "image_size": 32}
    still = {"learning_rate": 1e-12, "max_steps": 1}
    assert train(digits, tmp_path / "erm", "erm", **network) == 0
    assert train(digits, tmp_path / "on", "erm", init_from=tmp_path / "erm", **still, **network) == 0
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("erm", "on"))
    trained = [name for name in ours if name.endswith(("weight", "bias"))]
    assert len(trained) > 20 and all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in trained)
