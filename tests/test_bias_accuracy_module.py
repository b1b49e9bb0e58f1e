"""The `evaluate` module folder: the numpy function's numbers, through every way that `evaluate` has to feed it."""

import doctest
import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from fresh_python import fresh_python
from worked_out import BIAS_LABELS, EXPECTED, LABELS, PREDICTIONS

import hf_biasensemble
from hf_biasensemble.evaluation.accuracy import METRICS, bias_accuracy

FOLDER = Path(hf_biasensemble.__file__).parent / "evaluation" / "bias_accuracy"
ALL = {"bias_labels": BIAS_LABELS, "is_conflicting": LABELS != BIAS_LABELS}


@pytest.fixture
def module():
    return evaluate.load(str(FOLDER))


def test_a_table_worked_out_by_hand(module):
    results = module.compute(predictions=PREDICTIONS, references=LABELS, **ALL)
    assert results == pytest.approx(EXPECTED) and set(results) == set(METRICS)


@pytest.mark.parametrize("make", [np.ndarray.tolist, torch.from_numpy], ids=["lists", "tensors"])
def test_lists_and_tensors(module, make):
    inputs = {"predictions": PREDICTIONS, "references": LABELS, **ALL}
    results = module.compute(**{name: make(np.array(values)) for name, values in inputs.items()})
    assert results == pytest.approx(EXPECTED)


def test_empty_groups_are_left_out(module):
    labels, predictions = [0, 1, 1], [0, 1, 0]
    only_aligned = module.compute(predictions=predictions, references=labels, is_conflicting=[False] * 3)
    assert only_aligned == pytest.approx(
        {"accuracy": 2 / 3, "aligned_accuracy": 2 / 3, "unbiased_accuracy": 3 / 4, "worst_group_accuracy": 1 / 2}
    )
    # any whole numbers from 0 on name groups: cells (0,3), (1,0), (1,2), and the other three are empty
    cells = module.compute(predictions=predictions, references=labels, bias_labels=[3, 0, 2])
    assert cells == pytest.approx({"accuracy": 2 / 3, "unbiased_accuracy": 2 / 3, "worst_group_accuracy": 0.0})
    assert module.compute(predictions=predictions, references=labels) == pytest.approx({"accuracy": 2 / 3})


@pytest.mark.parametrize("given", [(), ("bias_labels",), ("is_conflicting",), ("bias_labels", "is_conflicting")])
def test_equals_the_numpy_function_on_random_tables(module, given):
    generator = np.random.default_rng(7)
    for number in range(12):
        size, classes = int(generator.integers(1, 60)), int(generator.integers(1, 5))
        predictions, labels, bias_labels = generator.integers(classes, size=(3, size))
        known = {"bias_labels": bias_labels - number % 3, "is_conflicting": labels != bias_labels}
        known = {name: known[name] for name in given}
        expected = bias_accuracy(predictions, labels, **known)
        assert module.compute(predictions=predictions, references=labels, **known) == expected


@pytest.mark.parametrize("given", [{}, ALL], ids=["bias unknown", "bias known"])
def test_batches_and_single_samples_add_up(module, given):
    expected = bias_accuracy(PREDICTIONS, LABELS, **given)
    for rows in (slice(0, 3), slice(3, 8)):
        known = {name: values[rows] for name, values in given.items()}
        module.add_batch(predictions=PREDICTIONS[rows], references=LABELS[rows], **known)
    assert module.compute() == expected
    for row in range(8):
        known = {name: values[row] for name, values in given.items()}
        module.add(prediction=PREDICTIONS[row], reference=LABELS[row], **known)
    assert module.compute() == expected


def test_an_input_for_some_samples_only_is_refused(module):
    module.add_batch(predictions=[1, 0], references=[1, 0], bias_labels=[0, 0])
    module.add_batch(predictions=[1], references=[1])
    with pytest.raises(ValueError, match="bias_labels: expected values for all 3 samples or for none, 1 are missing"):
        module.compute()


def test_unequal_lengths_and_unknown_inputs_are_refused(module):
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        module.compute(predictions=[0, 1], references=[0, 1], is_conflicting=[True])
    with pytest.raises(TypeError, match="biaslabels"):
        evaluate.load(str(FOLDER)).compute(predictions=[0], references=[0], biaslabels=[0])


OTHER_METRIC = '''
import datasets
import evaluate


class Wrong(evaluate.Metric):
    """How many predictions are wrong."""

    def _info(self):
        columns = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(columns))

    def _compute(self, predictions, references):
        return {"wrong": sum(p != r for p, r in zip(predictions, references))}
'''


@pytest.mark.slow
def test_combines_with_itself_and_with_other_metrics(tmp_path):
    twice = evaluate.combine({"first": evaluate.load(str(FOLDER)), "second": evaluate.load(str(FOLDER))})
    results = twice.compute(predictions=PREDICTIONS, references=LABELS, is_conflicting=ALL["is_conflicting"])
    expected = bias_accuracy(PREDICTIONS, LABELS, None, ALL["is_conflicting"])
    assert results == {f"{name}_{key}": value for name in ("first", "second") for key, value in expected.items()}

    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "wrong.py").write_text(OTHER_METRIC)
    both = evaluate.combine([str(FOLDER), str(tmp_path / "wrong")])
    assert both.compute(predictions=PREDICTIONS, references=LABELS) == {"accuracy": 5 / 8, "wrong": 3}
    both.add_batch(predictions=PREDICTIONS, references=LABELS, **ALL)
    assert both.compute() == pytest.approx({**EXPECTED, "wrong": 3})
    for prediction, label, conflicting in zip(PREDICTIONS, LABELS, ALL["is_conflicting"], strict=True):
        both.add(prediction, label, bias_labels=None, is_conflicting=conflicting)
    assert both.compute() == {**expected, "wrong": 3}


def test_examples_in_the_docstring(module):
    tests = doctest.DocTestFinder(recurse=False).find(type(module), "bias_accuracy", globs={})
    runner = doctest.DocTestRunner()
    results = [runner.run(test) for test in tests]
    assert sum(result.attempted for result in results) >= 5 and not any(result.failed for result in results)


@pytest.mark.slow
def test_example_of_the_card_runs_in_a_new_interpreter(tmp_path):
    example = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)[1]
    done = fresh_python("-c", example + "print(results)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("{'accuracy': 0.75, 'aligned_accuracy': 1.0, 'conflicting_accuracy': 0.0,")


def test_the_folder_is_complete_and_its_card_names_every_output():
    assert {"bias_accuracy.py", "README.md", "requirements.txt"} <= {path.name for path in FOLDER.iterdir()}
    assert set(re.findall(r"^\| `(\w*(?:accuracy|score))` ", (FOLDER / "README.md").read_text(), re.M)) == set(METRICS)
