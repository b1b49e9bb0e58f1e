"""The card of a run: every number is that of `all_results.json`, and every example runs."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from runs import METHODS, error_line, results, train, weights
from synthetic import CLASS_NAMES, coloured_digits

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.metrics.accuracy import METRICS
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.reporting.figures import run_curves
from hf_biasensemble.reporting.model_card import REPOSITORY_PLACEHOLDER, write_model_card

ROOT = Path(__file__).parents[1]
# The method, what is left out of the data, and further settings.
RUNS: dict[str, tuple[str, tuple[str, ...], dict]] = {
    **{method: (method, (), {}) for method in METHODS},
    "no bias labels": ("lff_be", ("bias_label", "is_conflicting"), {}),
    "conflicts only": ("lff_be", ("bias_label",), {"checkpoint_choice": "validation_ac_score"}),
    "timm": ("erm", (), {"backbone": "test_resnet", "image_size": 32, "checkpoint_choice": "oracle_test"}),
    "train only": ("erm", (), {"validation_share": 0, "test_share": 0}),
}
COLUMNS = dict(
    zip(METRICS, ["All", "Bias-aligned", "Bias-conflicting", "Unbiased", "Worst group", "AC score"], strict=True)
)
ORACLE = "oracle, chosen on the test set"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of the data and folder of a finished run on it, by name, made once; not to be changed."""
    folder = tmp_path_factory.mktemp("cards")

    def finished(name: str) -> tuple[Path, Path]:
        method, leave_out, changes = RUNS[name]
        data, output_dir = folder / "-".join(("data", *leave_out, name[:5])), folder / name
        if not output_dir.exists():
            coloured_digits(data, leave_out=leave_out)
            if name == "train only":
                (data / "validation.parquet").unlink()
                (data / "test.parquet").unlink()
            assert train(data, output_dir, method, save_strategy="no", **changes) == 0
        return data, output_dir

    return finished


@pytest.fixture
def written_again(finished, tmp_path):
    """The card of a finished run, written again after its files were changed."""

    def written_again(name: str, settings: dict | None = None, without: tuple = (), splits=None, **options) -> str:
        data, output_dir = finished(name)
        folder = tmp_path / "copy"
        shutil.copytree(output_dir, folder, dirs_exist_ok=True)
        changed = yaml.safe_load((folder / "config.yaml").read_text()) | (settings or {})
        (folder / "config.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
        kept = {key: value for key, value in results(folder).items() if key not in without}
        (folder / "all_results.json").write_text(json.dumps(kept))
        loaded = splits or load_image_splits(DataArguments(dataset_name=str(data)), changed["image_size"])
        return write_model_card(folder, loaded, **options).read_text()

    return written_again


def card(output_dir: Path) -> str:
    return (output_dir / "README.md").read_text()


def tables(text: str) -> list[list[dict[str, str]]]:
    """Rows of each table, by the names of its columns."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    rows = [[re.split(r"(?<!\\)\|", line.strip("|")) for line in table.splitlines()] for table in found]
    return [
        [dict(zip(map(str.strip, table[0]), map(str.strip, row), strict=True)) for row in table[2:]] for table in rows
    ]


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_metadata_and_table_have_the_numbers_of_the_results(finished, name):
    _, output_dir = finished(name)
    measured = {key: value for key, value in results(output_dir).items() if key.startswith(("validation_", "test_"))}
    assert bool(measured) == (name != "train only")
    read = ModelCard.load(output_dir / "README.md").data
    evaluations = read.eval_results or []
    assert {f"{e.dataset_split}_{e.metric_type}": e.metric_value for e in evaluations} == measured
    assert len(evaluations) == len(measured)
    assert (read.metrics or []) == [metric for metric in METRICS if f"test_{metric}" in measured]
    if measured:
        rows = {row.pop("split"): row for row in tables(section(card(output_dir), "Accuracy"))[0]}
        shown = {
            f"{split}_{metric}": rows[split][column]
            for split in ("validation", "test")
            for metric, column in COLUMNS.items()
            if column in rows[split]
        }
        assert shown == {key: f"{100 * value:.1f}" for key, value in measured.items()}


@pytest.mark.parametrize("name", ["lff", "conflicts only", "no bias labels", "train only"])
def test_counts_are_those_of_the_data(finished, name):
    data, output_dir = finished(name)
    of_splits, of_classes = tables(section(card(output_dir), "Data"))
    loaded = datasets.load_dataset(str(data))
    assert [row["split"] for row in of_splits] == [*loaded]
    assert [row.pop("class") for row in of_classes] == CLASS_NAMES
    for column, row in enumerate(of_splits):
        split = loaded[row["split"]]
        assert row["images"] == str(len(split))
        by_class = [list(cells.values())[column] for cells in of_classes]
        if name == "no bias labels":
            assert row.keys() == {"split", "images"}
            expected = Counter(split["label"])
            assert by_class == [str(expected[label]) for label in range(4)]
            continue
        assert [row["bias-aligned"], row["bias-conflicting"]] == [
            str(sum(c == which for c in split["is_conflicting"])) for which in (False, True)
        ]
        cells = Counter(zip(split["label"], split["is_conflicting"], strict=True))
        assert by_class == [f"{cells[label, False]} + {cells[label, True]}" for label in range(4)]
    if name == "lff":
        share = 100 * np.mean(loaded["train"]["is_conflicting"])
        assert f"Of the training images {share:.2f} % are bias-conflicting" in card(output_dir)


def test_counts_by_bias_label_where_nothing_says_what_is_aligned(finished, written_again):
    data, _ = finished("lff")
    splits = load_image_splits(DataArguments(dataset_name=str(data)), 28)
    unaligned = {name: dataclasses.replace(split, is_conflicting=None) for name, split in splits.items()}
    of_splits, of_classes = tables(section(written_again("lff", splits=unaligned), "Data"))
    assert of_splits[0].keys() == {"split", "images"}
    train_split = datasets.load_dataset(str(data), split="train")
    cells = Counter(zip(train_split["label"], train_split["bias_label"], strict=True))
    for label, row in enumerate(of_classes):
        assert row["train: by bias label, from 0 on"] == " + ".join(str(cells[label, bias]) for bias in range(4))


def test_counts_where_no_image_is_conflicting(finished, written_again):
    data, _ = finished("lff")
    splits = load_image_splits(DataArguments(dataset_name=str(data)), 28)
    splits["test"] = dataclasses.replace(splits["test"], is_conflicting=np.zeros(64, dtype=bool))
    of_splits, of_classes = tables(section(written_again("lff", splits=splits), "Data"))
    assert (of_splits[2]["bias-aligned"], of_splits[2]["bias-conflicting"]) == ("64", "0")
    assert [row["test: aligned + conflicting"] for row in of_classes] == ["16 + 0"] * 4


def test_selection_is_reported_and_its_quality_where_it_is_known(finished):
    for name in ("lff_be", "disent_be", "conflicts only"):
        _, output_dir = finished(name)
        found = results(output_dir)
        text = " ".join(section(card(output_dir), "The bias-amplified set").split())
        assert f"It holds {found['selection_size']} of the 96 training images" in text
        assert f"{100 * found['selection_aligned_recall']:.1f} % of the bias-aligned ones" in text
        assert f"{100 * found['selection_conflicting_leak']:.1f} % of the bias-conflicting ones" in text
    text = section(card(finished("no bias labels")[1]), "The bias-amplified set")
    assert "cannot be measured" in text and "%" not in text
    for name in ("erm", "lff", "disent"):
        assert "bias-amplified" not in card(finished(name)[1])


# Words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_empty_and_nothing_is_left_over(finished, name):
    _, output_dir = finished(name)
    text = card(output_dir)
    assert not re.search(r"\b(None|nan|Undefined|null)\b|\{\{|\{%|\n\n\n", text)
    assert not re.search(r"[ \t]$", text, re.MULTILINE) and text.endswith("\n") and not text.endswith("\n\n")
    assert str(output_dir.parent) not in text  # where it was made is nobody's business
    body = text.split("\n---\n", 1)[1]
    headings = re.findall(r"^#+ .*$", body, re.MULTILINE)
    assert [heading for heading in headings if heading.startswith("# ")] == [f"# {name}"]
    for heading in headings:
        content = body.split(heading + "\n", 1)[1].lstrip()
        assert content and (not content.startswith("#") or heading == "## Settings")


@pytest.mark.parametrize("name", RUNS)
def test_the_card_renders(finished, name):
    _, output_dir = finished(name)
    body = card(output_dir).split("\n---\n", 1)[1]
    html = MarkdownIt("commonmark").enable("table").render(body)
    assert html.count("<table>") == (3 if name == "train only" else 4)
    assert html.count('<img src="figures/accuracy.png"') == (name != "train only")
    assert "|---" not in html and "```" not in html and "](" not in html
    assert html.count("<h1>") == 1 and html.count("<h2>") == body.count("\n## ") >= 6
    for file in re.findall(r'<img src="(.*?)"', html):
        assert Image.open(output_dir / file).size[0] > 600


def test_a_run_without_bias_labels_says_so(finished):
    text = card(finished("no bias labels")[1])
    assert "no bias labels" in section(text, "Accuracy")
    assert "without bias labels that cannot be measured" in section(text, "Limits")
    assert not [column for column in list(COLUMNS.values())[1:] if column in text]
    for name in ("lff", "conflicts only"):
        assert "no bias labels" not in card(finished(name)[1])


def test_a_run_without_evaluation_says_so(finished):
    _, output_dir = finished("train only")
    assert "Not measured" in section(card(output_dir), "Accuracy")
    assert not (output_dir / "figures").exists() and "model-index" not in card(output_dir)


def test_the_oracle_is_marked_wherever_its_numbers_are(finished):
    _, output_dir = finished("timm")
    found = results(output_dir)
    text = card(output_dir)
    assert f"**Warning: {ORACLE}.**" in text
    assert f"at step {found['published_step']} of 12, **{ORACLE}**" in section(text, "Accuracy")
    evaluations = ModelCard.load(output_dir / "README.md").data.eval_results
    assert len(evaluations) == 12 and all(ORACLE in evaluation.metric_name for evaluation in evaluations)
    for name in RUNS.keys() - {"timm"}:
        assert "oracle," not in card(finished(name)[1])


@pytest.mark.parametrize("name", ["timm", "conflicts only"])
def test_the_last_step_stands_beside_a_chosen_one(finished, name):
    _, output_dir = finished(name)
    found = results(output_dir)
    rows = {row["split"]: row for row in tables(section(card(output_dir), "Accuracy"))[0]}
    for split in ("validation", "test"):
        row = rows[f"{split}, last step for comparison"]
        for metric, column in COLUMNS.items():
            assert row[column] == f"{100 * found[f'last_step_{split}_{metric}']:.1f}"
    assert f"at step {found['published_step']} of 12" in card(output_dir)
    assert "for comparison" not in card(finished("lff")[1])


def test_results_that_do_not_name_the_published_step_mean_the_last(finished, written_again):
    text = written_again("lff", without=("checkpoint_choice", "published_step"))
    assert "at step 12 of 12, the last one" in text
    assert text.split("# copy")[1] == card(finished("lff")[1]).split("# lff")[1]


def test_a_metric_that_one_split_lacks_is_neither_zero_nor_in_the_metadata(written_again):
    text = written_again("lff", without=("validation_conflicting_accuracy", "validation_ac_score"))
    validation, test = tables(section(text, "Accuracy"))[0]
    assert validation["Bias-conflicting"] == validation["AC score"] == "–"
    assert "–" not in validation["Bias-aligned"] + test["Bias-conflicting"]
    assert len(ModelCard(text).data.eval_results) == 10


@pytest.mark.parametrize("method", METHODS)
def test_each_method_names_its_papers_and_its_settings(finished, method):
    _, output_dir = finished(method)
    text = card(output_dir)
    papers = {"2205.14594": "_be", "2007.02561": "lff", "2107.01372": "disent"}
    assert {paper for paper in papers if paper in section(text, "Method")} == {
        paper for paper, part in papers.items() if part in method
    }
    cited = set(re.findall(r"@inproceedings\{(\w+),", text))
    expected = {"lee2023biasensemble": "_be", "nam2020learning": "lff disent", "lee2021learning": "disent"}
    assert cited == {name for name, parts in expected.items() if any(p in method for p in parts.split())}
    settings = yaml.safe_load((output_dir / "config.yaml").read_text())
    shown = {row["setting"].strip("`"): row["value"] for row in tables(section(text, "Method"))[0]}
    for name, value in shown.items():
        assert value == (settings[name] if isinstance(settings[name], str) else json.dumps(settings[name]))
    assert {"learning_rate", "max_steps", "per_device_train_batch_size", "seed", "backbone"} <= shown.keys()
    assert ("num_members" in shown) == method.endswith("_be")
    assert ("lambda_swap" in shown) == method.startswith("disent")
    assert ("loss_average_decay" in shown) == (method != "erm")
    assert method in ModelCard(text).data.tags


def test_recipe_is_named_and_what_differs_from_it(finished, written_again):
    recipe = yaml.safe_load((ROOT / "configs" / "lff_be" / "cmnist.yaml").read_text())
    text = section(written_again("lff_be", recipe | {"seed": 7}), "Method")
    assert "The published recipe `configs/lff_be/cmnist.yaml`, without a change." in text
    assert all(row.keys() == {"setting", "value"} for row in tables(text)[0])
    for change in ({"learning_rate": 0.02}, {"adam_beta1": 0.5}, {"horizontal_flip": True}):
        text = section(written_again("lff_be", recipe | change), "Method")
        assert "Own settings. Where the published recipe `configs/lff_be/cmnist.yaml`" in text
        rows = {row["setting"].strip("`"): row for row in tables(text)[0]}
        assert {name for name, row in rows.items() if row["recipe"]} == set(change)
    assert rows["horizontal_flip"]["recipe"] == "false"


def test_names_that_would_break_a_table(finished, written_again):
    data, _ = finished("lff")
    names = ["a | b", "c\nd", "pole", "square"]
    splits = {
        name: dataclasses.replace(split, class_names=names)
        for name, split in load_image_splits(DataArguments(dataset_name=str(data)), 28).items()
    }
    rows = tables(section(written_again("lff", splits=splits), "Data"))[1]
    assert [row["class"] for row in rows] == ["a \\| b", "c d", "pole", "square"]


# Metadata ------------------------------------------------------------------------------------------------------------


def test_data_set_and_base_model_are_named_only_if_they_are_on_the_hub(finished, written_again):
    local = ModelCard.load(finished("timm")[1] / "README.md").data
    assert local.datasets is None and local.base_model is None and local.license is None
    assert local.library_name == "transformers" and local.pipeline_tag == "image-classification"
    assert "timm" in local.tags and "timm" not in ModelCard.load(finished("lff")[1] / "README.md").data.tags

    changes = {"dataset_name": "me/digits", "dataset_config_name": "1pct", "pretrained": True, "backbone": "resnet18"}
    text = written_again("timm", changes)
    hub = ModelCard(text).data
    assert hub.datasets == ["me/digits"] and hub.base_model == "timm/resnet18.a1_in1k"
    assert {(e.dataset_type, e.dataset_config) for e in hub.eval_results} == {("me/digits", "1pct")}
    assert "[me/digits](https://huggingface.co/datasets/me/digits), configuration `1pct`" in text
    assert "--dataset_name" not in text
    assert ModelCard(written_again("timm", {"pretrained": True, "backbone": "no_such"})).data.base_model is None


def test_several_processes_are_stated(written_again):
    text = written_again("lff", num_processes=2)
    assert {"setting": "`processes`", "value": "2", "recipe": ""} in tables(section(text, "Method"))[0]
    assert "accelerate launch --num_processes 2 train.py" in text
    assert "processes" not in written_again("lff")


@pytest.mark.parametrize(("hub_id", "place"), [("me/mine", "me/mine"), ("mine", REPOSITORY_PLACEHOLDER)])
def test_examples_name_the_repository_where_it_is_known(written_again, hub_id, place):
    text = written_again("timm", hub_id=hub_id)
    assert f'model="{place}"' in text and "# mine" in text
    assert (f'"hf-hub:{place}"' in text) == (place == hub_id)


# Examples ------------------------------------------------------------------------------------------------------------

NEEDED = {"lff_be": 2, "disent_be": 2, "timm": 3}


def test_examples_run_without_the_library_and_classify_alike(finished, tmp_path):
    scripts, expected = ["import sys", "sys.modules['hf_biasensemble'] = None  # cannot be imported"], []
    for name, count in NEEDED.items():
        data, output_dir = finished(name)
        model, transform, size = load_classifier(str(output_dir))
        pixels = load_image_splits(DataArguments(dataset_name=str(data)), size)["test"].pixels
        with torch.inference_mode():
            predicted = model(pixel_values=transform(pixels, training=False)).logits.argmax(-1).tolist()
        row = (
            next(row for row, label in enumerate(predicted) if label != predicted[0]) if len(set(predicted)) > 1 else 0
        )
        datasets.load_dataset(str(data), split="test")[row]["image"].save(tmp_path / f"{name}.png")
        examples = re.findall(r"```python\n(.*?)```", card(output_dir), re.DOTALL)
        assert len(examples) == count
        scripts += [
            example.replace(REPOSITORY_PLACEHOLDER, str(output_dir)).replace("image.png", f"{name}.png")
            for example in examples
        ]
        label = CLASS_NAMES[predicted[row]]
        expected += [label, label, str(predicted[row])][:count]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf_home"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-I", "-c", "\n".join(scripts)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = [re.sub(r"^\[\{'label': '(\w+)'.*", r"\1", line) for line in done.stdout.splitlines()]
    assert printed == expected


def test_the_command_makes_the_same_model_again(finished, tmp_path, monkeypatch):
    data, output_dir = finished("lff_be")
    command = re.search(r"```bash\n(.*?)\n```", card(output_dir), re.DOTALL)[1]
    launcher, script, *words = shlex.split(command.replace(f"path/to/{data.name}", str(data)))
    assert (launcher, script) == ("python", "train.py")
    shutil.copy(output_dir / "config.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run_command("train", [*words, "--disable_tqdm", "true"]) == 0
    assert weights(tmp_path / "outputs" / "again") == weights(output_dir)


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_readme_that_is_already_there_is_not_lost(finished, tmp_path, capsys):
    data, _ = finished("erm")
    (tmp_path / "README.md").write_text("mine")
    assert train(data, tmp_path, "erm") == 2
    assert "README.md" in error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"] and card(tmp_path) == "mine"


def test_an_earlier_card_goes_with_its_run(finished, tmp_path):
    data, output_dir = finished("erm")
    folder = shutil.copytree(output_dir, tmp_path / "erm")
    assert train(data, folder, "lff_be", member_threshold=0.999999, member_steps=1, overwrite_output_dir="true") != 0
    assert not (folder / "README.md").exists() and not (folder / "figures" / "accuracy.png").exists()


def test_curves_have_a_line_for_each_group_and_none_without_evaluations(tmp_path):
    file = tmp_path / "history.csv"
    assert run_curves(file, tmp_path / "no.png") is None
    file.write_text("step,test_accuracy\n")
    assert run_curves(file, tmp_path / "no.png") is None
    file.write_text("step,test_accuracy,test_conflicting_accuracy\n100,.5,.2\n200,.6,.3\n")
    one = Image.open(run_curves(file, tmp_path / "one.png")).convert("RGB")
    file.write_text("step,test_accuracy,validation_accuracy\n100,.5,.6\n")
    two = Image.open(run_curves(file, tmp_path / "two.png")).convert("RGB")
    assert two.size[0] > one.size[0] and not (tmp_path / "no.png").exists()
    orange, blue = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)
    counts = [
        int((np.abs(np.asarray(image).astype(int) - colour).sum(axis=2) < 30).sum())
        for image, colour in ((one, orange), (one, blue), (two, orange), (two, blue))
    ]
    assert counts[0] > 500 and counts[1] > 500 and counts[2] > 50 and counts[3] == 0
