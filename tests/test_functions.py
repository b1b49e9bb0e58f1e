"""`fit`, `audit` and `judge` do what the commands do, to the byte; `Run` gives what a run has left."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from runs import common_settings, content, error_line, weights
from synthetic import CLASS_NAMES
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

import hf_biasensemble as be
from hf_biasensemble.cli.main import run_command

TIMES = re.compile(
    rb'("(?:\w*_runtime|\w*_per_second|total_flos)": )[-\d.e]+|'
    rb"( in )[\d,]+(?= seconds)|(, including )[\d,]+"
)


def settings(method: str) -> dict:
    """Options of a short run; the values are those of `runs.train`."""
    found = common_settings(method)
    return found | {"use_cpu": True, "disable_tqdm": True}


def in_words(options: dict) -> list[str]:
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


def without_times(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files without what tells the time; the random state of a checkpoint holds nothing else that may differ."""
    return {name: TIMES.sub(rb"\1\2\3?", found) for name, found in files.items() if name != ".lock"}


@pytest.fixture(scope="module")
def photographs(digits) -> datasets.DatasetDict:
    """The digits as `load_dataset` gives them."""
    return datasets.DatasetDict(
        {
            name: datasets.Dataset.from_parquet(str(digits / f"{name}.parquet"))
            for name in ("train", "validation", "test")
        }
    )


@pytest.mark.parametrize("method", ["erm", pytest.param("lff_be", marks=pytest.mark.slow)])
def test_function_writes_what_the_command_writes(digits, tmp_path, monkeypatch, method):
    for place in ("command", "function"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "command")
    data = {"dataset_name": digits, "method": method, "output_dir": "out"}
    assert run_command("train", in_words({**data, **settings(method)})) == 0
    monkeypatch.chdir(tmp_path / "function")
    be.fit(digits, method=method, output_dir="out", **settings(method))
    ours, theirs = (without_times(content(tmp_path / place / "out")) for place in ("function", "command"))
    assert len(ours) > 20 and ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_audit_writes_what_the_command_writes(digits, photographs, tmp_path, monkeypatch):
    options = settings("lff_be") | {"member_steps": 3, "num_images": 2}
    (tmp_path / "command").mkdir()
    monkeypatch.chdir(tmp_path / "command")
    assert run_command("audit", in_words({"dataset_name": digits, "output_dir": "outputs/audit", **options})) == 0
    monkeypatch.chdir(tmp_path)
    found = be.audit(digits, **options)
    assert found.folder == be.Run("outputs/audit").folder
    ours, theirs = (without_times(content(folder)) for folder in (found.folder, tmp_path / "command" / found.folder))
    assert [name for name in theirs if ours[name] != theirs[name]] == []
    assert (found.selection.index == be.audit(photographs, **options).selection.index).all()
    for shown in (found, be.Run("outputs/audit")):
        assert "data:image/webp" in shown._repr_html_() and shown.results == {}


@pytest.fixture(scope="module")
def place(photographs, tmp_path_factory) -> tuple[Path, be.Run]:
    """A folder with an ordinary run and one with members that is compared with it, of data in memory."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        erm = be.fit(photographs, method="erm", **settings("erm") | {"max_steps": 2})
        return folder, be.fit(photographs, compare_with=erm, **settings("lff_be") | {"max_steps": 2})


@pytest.fixture
def run(place, monkeypatch) -> be.Run:
    """The run with members, in its place."""
    monkeypatch.chdir(place[0])
    return place[1]


def test_run_has_what_it_left(run, digits, photographs, capsys):
    assert str(run.folder) == "outputs/lff_be" and (run.folder.parent / "erm").is_dir()
    assert run.results == json.loads((run.folder / "all_results.json").read_text())
    assert len(run.selection.index) == 96 and be.Run(run.folder.parent / "erm").selection is None
    reopened = AutoModelForImageClassification.from_pretrained(run.folder)
    for name, value in reopened.state_dict().items():
        assert run.model.state_dict()[name].equal(value)
    assert "cannot tell" in str(run.estimates) and run.estimates == {}
    shown = run._repr_html_()
    flagged = run.flagged_images(3)
    capsys.readouterr()
    assert "conflicting accuracy" in shown and shown.count("<img") == min(12, (~run.selection.is_selected).sum())
    assert [row for row, _, _ in flagged] == run.selection.index[run.selection.mean_probability.argsort()[:3]].tolist()
    assert flagged[0][1].tobytes() == photographs["train"][flagged[0][0]]["image"].tobytes()
    assert "<img" not in be.Run(run.folder)._repr_html_()  # the images are nowhere now
    assert capsys.readouterr().out == ""
    card = (run.folder / "README.md").read_text()
    assert "A dataset in memory" in card and "huggingface.co/datasets/in" not in card


def test_data_in_memory_train_what_their_folder_does(run, digits):
    same = be.fit(digits, **settings("lff_be") | {"max_steps": 2})
    assert weights(same.folder) == weights(run.folder) and str(same.folder) == "outputs/lff_be_2"
    assert "<img" in be.Run(same.folder)._repr_html_()


def test_predictions_are_those_of_the_pipeline(run, photographs, tmp_path):
    images = [photographs["test"][row]["image"] for row in range(5)]
    expected = pipeline("image-classification", model=str(run.folder), trust_remote_code=True)(images)
    images[1].save(tmp_path / "image.png")
    found = run.predict(
        [images[0], tmp_path / "image.png", np.asarray(images[2]), str(tmp_path / "image.png")], top_k=4
    )
    for ours, theirs in zip(found, [expected[0], expected[1], expected[2], expected[1]], strict=True):
        assert [one["label"] for one in ours] == [one["label"] for one in theirs]
        assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-5)
    assert run.predict(images[0])["label"] == expected[0][0]["label"]
    assert run.predict(torch.from_numpy(np.array(images[0]))) == run.predict(images[0])
    with pytest.raises(
        be.BiasEnsembleError, match=r"predict: expected .* arrays \(H, W, 3\), found ndarray uint8 \(3, "
    ):
        run.predict(torch.from_numpy(np.array(images[0])).permute(2, 0, 1))
    assert run.predict(images[0].convert("L"), top_k=2) == run.predict([images[0].convert("L")], top_k=2)[0]


def test_judge_says_what_the_command_says(run, digits, photographs):
    given = {"model": run.folder, "members": run.folder, "compare_with": run.folder.parent / "erm"}
    assert run_command("judge", in_words({**given, "dataset_name": digits, "output_file": "judged.json"})) == 0
    named = {"members": run, "compare_with": given["compare_with"], "output_file": "ours.json"}
    found = be.judge(photographs, run, **named)
    assert Path("ours.json").read_bytes() == Path("judged.json").read_bytes()
    assert found == json.loads(Path("judged.json").read_text()) and "cannot tell" in str(found)


def test_a_method_of_ones_own_and_a_name_for_the_data(photographs, tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(be.METHODS, "_found", dict(be.METHODS._found))
    mine = replace(be.METHODS["erm"], name="mine", title="Mine")
    found = be.fit(photographs["train"], method=mine, dataset_name="me/digits", **settings("erm") | {"max_steps": 1})
    assert str(found.folder) == "outputs/mine" and "test_accuracy" in found.results  # held out of the training split
    assert "https://huggingface.co/datasets/me/digits" in (found.folder / "README.md").read_text()
    again = be.fit(photographs, method=mine, **settings("erm") | {"max_steps": 1})
    assert str(again.folder) == "outputs/mine_2"


def tiny_vit() -> ViTForImageClassification:
    """A network of transformers with weights that no other has."""
    torch.manual_seed(4)
    names = dict(enumerate(CLASS_NAMES))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(**sizes, image_size=28, patch_size=7, id2label=names, label2id={v: k for k, v in names.items()})
    return ViTForImageClassification(config)


def test_a_model_in_memory_is_trained_and_keeps_its_architecture(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    processor = ViTImageProcessor(size={"height": 28, "width": 28})
    short = settings("erm") | {"max_steps": 1, "learning_rate": 1e-9}
    run = be.fit(photographs, model=tiny_vit(), processing_class=processor, method="erm", **short)
    same = be.fit(photographs, model=tiny_vit, processing_class=processor, method="erm", **short)
    assert weights(run.folder) == weights(same.folder)
    given, found = tiny_vit().state_dict(), AutoModelForImageClassification.from_pretrained(run.folder)
    assert type(found) is ViTForImageClassification
    encoder = [name for name in given if not name.startswith("classifier")]
    assert max(float((found.state_dict()[name] - given[name]).abs().max()) for name in encoder) < 1e-6
    assert AutoImageProcessor.from_pretrained(run.folder).image_mean == processor.image_mean
    repaired = be.fit(photographs, init_from=run, freeze_backbone=True, method="erm", **short)
    assert type(repaired.model) is ViTForImageClassification
    with pytest.raises(
        be.BiasEnsembleError, match="initial_model: expected the preprocessing of its pretrained weights"
    ):
        be.fit(photographs, model=tiny_vit(), method="erm", **short)


MISTAKES = {
    "lerning_rate": ({"lerning_rate": 1}, "unknown option --lerning_rate .* did you mean learning_rate"),
    "value": ({"max_steps": "many"}, "--max_steps: invalid int value: 'many'"),
    "range": ({"weight_average": 2}, r"--weight_average: expected in \[0, 1\), found 2"),
    "method": ({"method": "lfff"}, "--method: expected one of .*, found lfff"),
    "of another method": ({"method": "erm", "num_members": 3}, "--num_members .* has no effect with --method erm"),
    "recipe": ({"recipe": "recommended/photos"}, "--config recommended/photos .* near it: recommended/photographs"),
    "model": ({"model": 3}, "model: expected a name, .*, found int"),
    "backbone": ({"model": "resnet_18"}, "resnet_18"),
    "column": ({"label_column": "kind"}, "expected a label column 'kind'|expected the column|'kind'"),
    "folder": ({"output_dir": "held"}, "--output_dir held holds another run"),
    "model to compare": ({"compare_with": torch.nn.Linear(1, 1)}, "compare_with: expected text, .*, found Linear"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_those_of_the_command(photographs, digits, tmp_path, monkeypatch, capsys, mistake):
    options, message = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "all_results.json").write_text("{}")
    with pytest.raises(be.BiasEnsembleError, match=message) as error:
        be.fit(photographs, **{"use_cpu": True, **options})
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held"]
    if mistake not in ("model", "column", "model to compare"):
        names = {"model": "backbone", "recipe": "config"}
        given = {"output_dir": "out", **{names.get(name, name): value for name, value in options.items()}}
        assert run_command("train", in_words({"dataset_name": digits, "use_cpu": True, **given})) == 2
        assert error_line(capsys) == f"error: {error.value}"


@pytest.mark.parametrize("data", [3, [1, 2], {"train": 1}, None, datasets.DatasetDict()])
def test_what_is_no_dataset_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(be.BiasEnsembleError, match=r"dataset: expected a datasets\.Dataset or DatasetDict.*, found"):
        be.fit(data, use_cpu=True)


def test_a_mistake_leaves_no_model_behind(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data, options in ((photographs, {"lerning_rate": 1}), (3, {})):
        with pytest.raises(be.BiasEnsembleError):
            be.fit(data, model=tiny_vit, **options)
    assert list(tmp_path.iterdir()) == []


def test_models_to_judge_are_saved_ones(run, photographs):
    with pytest.raises(
        be.BiasEnsembleError, match="model: expected .*, found Debiased.*; save it with save_pretrained"
    ):
        be.judge(photographs, run.model, members=run)
    with pytest.raises(be.BiasEnsembleError, match="members: expected .*, found Selection"):
        be.judge(photographs, run, members=run.selection)


def test_what_nothing_can_be_compared_with_is_named(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    be.fit(photographs, compare_with="outputs/emr", **settings("erm") | {"method": "erm", "max_steps": 1})
    assert "--compare_with outputs/emr: no estimates will be compared" in capsys.readouterr().out


def test_images_of_data_that_have_changed_are_not_shown(digits, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photographs["train"].to_parquet("train.parquet")
    be.fit("train.parquet", output_dir="old", **settings("lff_be") | {"max_steps": 1})
    (tmp_path / "old").rename("moved")
    found = be.Run("moved")
    assert len(found.flagged_images(2)) == 2
    settings_of_run = (found.folder / "config.yaml").read_text().splitlines()
    (found.folder / "config.yaml").write_text(
        "\n".join(line for line in settings_of_run if not line.startswith("feature_column"))
    )
    assert len(found.flagged_images(2)) == 2  # a run of an earlier version, without this option
    photographs["train"].select(range(40)).to_parquet("train.parquet")
    with pytest.raises(
        be.BiasEnsembleError, match=r"train\.parquet: expected the training images of moved, found only"
    ):
        found.flagged_images()
    assert "<img" not in found._repr_html_()


def test_an_image_that_cannot_be_read_is_named(run, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"broken")
    with pytest.raises(be.BiasEnsembleError, match="predict: expected .*, found an unreadable one: .*broken.png"):
        run.predict([Image.new("RGB", (9, 9)), tmp_path / "broken.png"])
    with pytest.raises(be.BiasEnsembleError, match="predict: expected images of PIL, .* found dict"):
        run.predict([{}])
    with pytest.raises(be.BiasEnsembleError, match="predict: expected images of PIL, .* found NoneType"):
        run.predict(None)
    with pytest.raises(be.BiasEnsembleError, match="Run: expected the output folder of a finished run, found no"):
        be.Run(tmp_path / "nowhere")
