"""The table of moving averages against dictionaries that are scanned anew at each step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_biasensemble.losses.objectives import relative_difficulty
from hf_biasensemble.losses.sample_losses import SampleLosses


class NaiveSampleLosses:
    """One float per sample and network; the class maximum is looked up among all samples each time."""

    def __init__(self, labels: list[int], num_networks: int, decay: float, epsilon: float = 1e-8):
        self.labels = labels
        self.decay = decay
        self.epsilon = epsilon
        self.average = [[0.0] * num_networks for _ in labels]
        self.seen = [False] * len(labels)

    def update(self, index: list[int], losses: list[list[float]]) -> None:
        for sample, values in dict(zip(index, losses, strict=True)).items():  # a later duplicate replaces an earlier
            for network, loss in enumerate(values):
                if self.seen[sample]:
                    loss = self.decay * self.average[sample][network] + (1 - self.decay) * loss
                self.average[sample][network] = loss
            self.seen[sample] = True

    def scaled(self, index: list[int]) -> list[list[float]]:
        rows = []
        for sample in index:
            same_class = [self.average[i] for i, label in enumerate(self.labels) if label == self.labels[sample]]
            largest = [max(column) for column in zip(*same_class, strict=True)]
            pairs = zip(self.average[sample], largest, strict=True)
            rows.append([value / (top + self.epsilon) for value, top in pairs])
        return rows


@st.composite
def histories(draw):
    """Labels (classes may be missing), and batches of indices (with duplicates) and losses."""
    num_classes = draw(st.sampled_from([1, 2, 3, 7, 2000]))
    num_samples = draw(st.sampled_from([1, 2, 5, 40, 1100]))  # 1100 of one class: three levels of blocks
    num_networks = draw(st.sampled_from([1, 2, 3]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    used = draw(st.integers(1, num_classes))
    labels = torch.randint(used, (num_samples,), generator=generator)
    steps = []
    for _ in range(draw(st.integers(1, 8))):
        size = draw(st.integers(1, 30))
        index = torch.randint(num_samples, (size,), generator=generator)
        scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 10.0]))
        steps.append((index, torch.rand(size, num_networks, generator=generator) * scale))
    return num_classes, labels, num_networks, draw(st.sampled_from([0.0, 0.3, 0.7, 0.99])), steps


def rows(values: torch.Tensor) -> list:
    return values.double().flatten().tolist()


def flat(values: list[list[float]]) -> list[float]:
    return [value for row in values for value in row]


@settings(max_examples=80, deadline=None)
@given(histories())
def test_averages_and_scaled_values_equal_a_full_rescan(history):
    num_classes, labels, num_networks, decay, steps = history
    table = SampleLosses(labels, num_classes, num_networks, decay)
    naive = NaiveSampleLosses(labels.tolist(), num_networks, decay)
    for index, losses in steps:
        table.update(index, losses)
        naive.update(index.tolist(), losses.tolist())
        assert rows(table.averages()) == pytest.approx(flat(naive.average), rel=1e-5, abs=1e-7)
        assert table.seen.tolist() == naive.seen
        probe = torch.unique(torch.cat([index, torch.arange(0, len(labels), 97)]))[:40]
        assert rows(table.scaled(probe)) == pytest.approx(flat(naive.scaled(probe.tolist())), rel=1e-4, abs=1e-6)


def test_class_maximum_is_exact_over_a_long_run_in_which_it_falls_and_rises():
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(3, (2500,), generator=generator)
    table = SampleLosses(labels, 3, decay=0.5)
    falls = 0
    before = torch.zeros(3, 2)
    for step in range(400):
        index = torch.randint(2500, (64,), generator=generator)
        loss = torch.rand(64, 2, generator=generator) * (10 if step % 50 == 0 else 0.1)
        holders = torch.stack([(table.averages() * (labels == k)[:, None]).argmax(dim=0) for k in range(3)])
        if step % 3 == 0:
            index[:3] = holders[:, 0]  # update the samples that hold the maximum
        table.update(index, loss)
        averages = table.averages()
        rescan = torch.stack([averages[labels == k].amax(dim=0) for k in range(3)])
        first = torch.stack([(labels == k).nonzero()[0, 0] for k in range(3)])
        assert torch.equal(table.scaled(first), averages[first] / (rescan + 1e-8))
        falls += int((rescan < before).sum())
        before = rescan
    assert falls > 100


def test_first_value_is_the_loss_itself_and_later_ones_are_averaged():
    table = SampleLosses(torch.tensor([0, 0, 1]), 2, num_networks=1, decay=0.75)
    table.update(torch.tensor([1]), torch.tensor([[4.0]]))
    assert table.averages().flatten().tolist() == [0.0, 4.0, 0.0]
    table.update(torch.tensor([1]), torch.tensor([[8.0]]))
    assert table.averages().flatten().tolist() == [0.0, 5.0, 0.0]
    assert table.scaled(torch.tensor([0, 1, 2])).flatten().tolist() == pytest.approx([0.0, 1.0, 0.0])


def test_class_maximum_falls_when_its_only_holder_is_updated():
    table = SampleLosses(torch.zeros(100, dtype=torch.int64), 1, num_networks=1, decay=0.0)
    table.update(torch.arange(100), torch.linspace(0.01, 1, 100)[:, None])
    table.update(torch.tensor([99]), torch.tensor([[0.5]]))
    assert table.scaled(torch.tensor([98, 99])).flatten().tolist() == pytest.approx([1.0, 0.5 / 0.99], rel=1e-5)


def test_duplicates_count_once_and_the_last_wins():
    table = SampleLosses(torch.zeros(4, dtype=torch.int64), 1, num_networks=1, decay=0.5)
    table.update(torch.tensor([2, 2, 1, 2]), torch.tensor([[1.0], [7.0], [3.0], [2.0]]))
    assert table.averages().flatten().tolist() == [0.0, 3.0, 2.0, 0.0]
    table.update(torch.tensor([2, 2]), torch.tensor([[100.0], [4.0]]))
    assert table.averages()[2].tolist() == [3.0]


def test_losses_of_half_precision_are_kept_in_float32():
    table = SampleLosses(torch.zeros(2, dtype=torch.int64), 1, num_networks=1, decay=0.7)
    for _ in range(3):
        table.update(torch.tensor([0]), torch.tensor([[0.3]], dtype=torch.bfloat16))
    assert table.averages().dtype == torch.float32
    assert float(table.averages()[0]) == pytest.approx(float(torch.tensor(0.3).bfloat16()), rel=1e-6)


def test_losses_with_a_gradient_leave_none_in_the_table():
    table = SampleLosses(torch.zeros(2, dtype=torch.int64), 1, num_networks=1)
    table.update(torch.tensor([0]), torch.ones(1, 1, requires_grad=True) * 2)
    assert not table.scaled(torch.tensor([0])).requires_grad


@settings(max_examples=40, deadline=None)
@given(histories())
def test_weights_of_lff_equal_the_loop(history):
    num_classes, labels, _, decay, steps = history
    table = SampleLosses(labels, num_classes, 2, decay)
    naive = NaiveSampleLosses(labels.tolist(), 2, decay)
    for index, losses in steps:
        losses = torch.cat([losses, losses.flip(0)], dim=1)[:, :2]
        table.update(index, losses)
        naive.update(index.tolist(), losses.tolist())
        weights = relative_difficulty(*table.scaled(index).unbind(dim=1))
        expected = [biased / (biased + debiased + 1e-8) for biased, debiased in naive.scaled(index.tolist())]
        assert weights.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(histories())
def test_state_goes_round(history):
    num_classes, labels, num_networks, decay, steps = history
    table = SampleLosses(labels, num_classes, num_networks, decay)
    for index, losses in steps:
        table.update(index, losses)
    restored = SampleLosses(labels, num_classes, num_networks, decay)
    restored.update(torch.arange(len(labels)), torch.full((len(labels), num_networks), 50.0))  # must all go
    restored.load_state_dict({name: value.clone() for name, value in table.state_dict().items()})
    everything = torch.arange(len(labels))
    for index, losses in steps:  # equal now, and equal after the same further steps
        assert torch.equal(restored.averages(), table.averages())
        assert torch.equal(restored.seen, table.seen)
        assert torch.equal(restored.scaled(everything), table.scaled(everything))
        table.update(index, losses)
        restored.update(index, losses)


def test_state_of_another_training_set_is_refused():
    state = SampleLosses(torch.zeros(5, dtype=torch.int64), 1).state_dict()
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(5, 2\).*another training set"):
        SampleLosses(torch.zeros(4, dtype=torch.int64), 1).load_state_dict(state)
