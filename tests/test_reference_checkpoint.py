"""Files that are no checkpoint of the authors' code, or not the one asked for, are refused; their code never runs."""

import io
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from reference_files import FILES, STEP, Mlp, ResNet, import_reference, rewritten, with_weights
from runs import error_line


def refused(
    capsys, tmp_path: Path, folder: Path, *expected: str, method: str = "lff", dataset: str = "cmnist"
) -> None:
    """The import fails in one line that holds all of `expected`, and writes nothing."""
    assert import_reference(folder, tmp_path / "out", method, dataset) == 2
    message = error_line(capsys)
    for text in (*expected, "expected", "found", ";"):
        assert text in message, message
    assert not (tmp_path / "out").exists()


def test_missing_folder_and_file_in_its_place_are_named(reference_checkpoint, tmp_path, capsys):
    refused(capsys, tmp_path, tmp_path / "nowhere", "nowhere: expected a folder", "(there: nothing)")
    file = reference_checkpoint("lff", "cmnist") / FILES["debiased"]
    refused(capsys, tmp_path, file, "expected a folder with best_model_d.th", "name the result folder")


@pytest.mark.parametrize("which", FILES)
def test_missing_file_is_named(reference_checkpoint, tmp_path, capsys, which):
    other = FILES["biased" if which == "debiased" else "debiased"]
    (tmp_path / "in").mkdir()
    shutil.copy(reference_checkpoint("disent", "cmnist") / other, tmp_path / "in")
    parts = (f"found no {FILES[which]} (there: {other})", "DisEnt needs both files")
    refused(capsys, tmp_path, tmp_path / "in", *parts, method="disent")


def test_lff_needs_only_the_file_asked_for(reference_checkpoint, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    shutil.copy(reference_checkpoint("lff", "cmnist") / "best_model_b.th", tmp_path / "in")
    refused(capsys, tmp_path, tmp_path / "in", "found no best_model_d.th (there: best_model_b.th)")
    assert import_reference(tmp_path / "in", tmp_path / "out", "lff", "cmnist", "--which", "biased") == 0


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_file_is_refused(reference_checkpoint, tmp_path, capsys, share, old_format):
    options = {"_use_new_zipfile_serialization": not old_format}
    folder = rewritten(reference_checkpoint("lff", "cmnist"), tmp_path / "in", lambda content: None, **options)
    whole = (folder / "best_model_d.th").read_bytes()
    (folder / "best_model_d.th").write_bytes(whole[: int(share * len(whole))])
    refused(capsys, tmp_path, folder, "best_model_d.th", "truncated or another format", "copy or download")


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("file_format", ["torch", "old torch", "pickle"])
def test_code_in_a_file_is_never_run(tmp_path, capsys, file_format):
    content = {"steps": STEP, "state_dict": {"fc.weight": Malicious(tmp_path / "made")}, "optimizer": {}}
    stream = io.BytesIO()
    if file_format == "pickle":
        pickle.dump(content, stream)
    else:
        torch.save(content, stream, _use_new_zipfile_serialization=file_format == "torch")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "best_model_d.th").write_bytes(stream.getvalue())
    refused(capsys, tmp_path, tmp_path / "in", *(["mkdir", "nothing was run"] if file_format != "pickle" else []))
    assert not (tmp_path / "made").exists()
    stream.seek(0)
    pickle.load(stream) if file_format == "pickle" else torch.load(stream, weights_only=False)
    assert (tmp_path / "made").exists()  # so it is code that was not run


@pytest.mark.parametrize(
    "content, found",
    [
        ([1, 2], "found list"),
        (torch.ones(3), "found Tensor"),
        ({}, "found a dict of nothing"),
        ({"feature.0.weight": torch.ones(3)}, "found a dict of feature.0.weight"),
        ({"steps": 1, "state_dict": {}}, "found a dict of steps, state_dict"),
        ({"steps": 1, "state_dict": {"fc.weight": "text"}}, "found a dict of steps, state_dict"),
    ],
)
def test_file_without_a_state_dict_is_refused(tmp_path, capsys, content, found):
    (tmp_path / "in").mkdir()
    torch.save(content, tmp_path / "in" / "best_model_d.th")
    refused(capsys, tmp_path, tmp_path / "in", "expected a dict with steps, state_dict", found, "save_best")


@pytest.mark.parametrize("dataset", ["cmnist", "bar"])
@pytest.mark.parametrize("method", ["lff", "disent"])
def test_other_method_is_recognised_by_its_head(reference_checkpoint, tmp_path, capsys, method, dataset):
    asked = "disent" if method == "lff" else "lff"
    parts = (
        f"expected the network of --method {asked} --reference_dataset {dataset}",
        f"found that of --method {method} --reference_dataset {dataset}; use these options",
    )
    refused(capsys, tmp_path, reference_checkpoint(method, dataset), *parts, method=asked, dataset=dataset)


@pytest.mark.parametrize(
    "written, asked, found",
    [
        ("bar", "cmnist", ["bar"]),
        ("cmnist", "bar", ["cmnist"]),
        ("bar", "bffhq", ["bar"]),
        ("bffhq", "bar", ["bffhq", "dogs_and_cats"]),
    ],
)
def test_other_data_set_is_recognised_by_its_network(reference_checkpoint, tmp_path, capsys, written, asked, found):
    named = " or ".join(f"--method lff --reference_dataset {name}" for name in found)
    parts = (f"expected the network of --method lff --reference_dataset {asked}", f"found that of {named}; use")
    refused(capsys, tmp_path, reference_checkpoint("lff", written), *parts, dataset=asked)


def network_file(folder: Path, network: torch.nn.Module) -> Path:
    folder.mkdir()
    torch.save({"steps": STEP, "state_dict": network.state_dict(), "optimizer": {}}, folder / "best_model_d.th")
    return folder


def test_other_widths_are_named(tmp_path, capsys):
    folder = network_file(tmp_path / "hidden", Mlp("lff", 10, hidden=64))
    refused(capsys, tmp_path, folder, "feature.0.weight (64, 2352) instead of (100, 2352)")
    network = ResNet("lff", 6)
    network.conv1 = torch.nn.Conv2d(3, 64, 3, bias=False)
    folder = network_file(tmp_path / "stem", network)
    different = "conv1.weight (64, 3, 3, 3) instead of (64, 3, 7, 7)"
    refused(capsys, tmp_path, folder, different, dataset="bar")
    folder = network_file(tmp_path / "classes", Mlp("lff", 7))
    different = "classifier.weight (7, 16) instead of (10, 16)"
    refused(capsys, tmp_path, folder, different, "only the authors' networks")


def test_missing_and_unknown_weights_are_named(reference_checkpoint, tmp_path, capsys):
    def change(state):
        state = {name: value for name, value in state.items() if name not in ("feature.2.bias", "classifier.bias")}
        return state | {f"extra.{number}": torch.ones(1) for number in range(7)}

    folder = rewritten(reference_checkpoint("lff", "cmnist"), tmp_path / "in", with_weights(change))
    refused(capsys, tmp_path, folder, "2 missing (feature.2.bias, classifier.bias)", "7 unknown (extra.0, extra.1, ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", FILES)
def test_weights_that_are_not_finite_are_refused(reference_checkpoint, tmp_path, capsys, value, which):
    def change(state):
        state["feature.4.weight"][3, 5] = value
        return state

    folder = rewritten(reference_checkpoint("disent", "cmnist"), tmp_path / "in", with_weights(change), (which,))
    refused(capsys, tmp_path, folder, FILES[which], "found feature.4.weight", "diverged", method="disent")


@pytest.mark.parametrize("dtype", ["int64", "complex64", "bool"])
def test_weights_that_are_no_floating_point_numbers_are_refused(reference_checkpoint, tmp_path, capsys, dtype):
    def change(state):
        return {name: value.to(getattr(torch, dtype)) for name, value in state.items()}

    folder = rewritten(reference_checkpoint("lff", "cmnist"), tmp_path / "in", with_weights(change))
    refused(capsys, tmp_path, folder, f"of type torch.{dtype}", "expected finite floating point weights")


def test_files_of_two_saves_do_not_make_a_pair(reference_checkpoint, tmp_path, capsys):
    folder = reference_checkpoint("disent", "cmnist")
    folder = rewritten(folder, tmp_path / "in", lambda content: content | {"steps": 9}, ("biased",))
    refused(capsys, tmp_path, folder, f"step {STEP} (best_model_d.th) and step 9 (best_model_b.th)", method="disent")
