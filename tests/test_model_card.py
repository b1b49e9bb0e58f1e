"""The card of a run: every number is that of `all_results.json`, and every picture that there is stands in it."""

import dataclasses
import json
import re
import shutil
from collections import Counter

import cards
import datasets
import numpy as np
import pytest
import yaml
from cards import RUNS, card
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from runs import METHODS, results
from synthetic import CLASS_NAMES, COLOUR_NAMES

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.evaluation.accuracy import METRICS
from hf_biasensemble.evaluation.classifier import predict_logits
from hf_biasensemble.methods import METHODS as ALL_METHODS
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.reporting.card.model_card import REPOSITORY_PLACEHOLDER, write_model_card
from hf_biasensemble.reporting.figures.groups import group_heat_map

finished = cards.finished
_OF_ALL, _OF_WEIGHTED = ["accuracy", "groups"], ["accuracy", "groups", "relative_difficulty"]
_OF_SELECTED = ["accuracy", "groups", "selection", "relative_difficulty"]
PICTURES = {
    **dict.fromkeys(("erm", "timm"), _OF_ALL),
    **dict.fromkeys(("lff", "disent"), _OF_WEIGHTED),
    **dict.fromkeys(("lff_be", "disent_be", "conflicts only"), _OF_SELECTED),
    **dict.fromkeys(
        ("jtt", "group_dro_be", "last_layer_be", "logit_adjusted", "product_of_experts"),
        ["accuracy", "groups", "selection"],
    ),
    "no bias labels": ["accuracy", "selection", "relative_difficulty"],
    "train only": [],
}
COLUMNS = dict(
    zip(METRICS, ["All", "Bias-aligned", "Bias-conflicting", "Unbiased", "Worst group", "AC score"], strict=True)
)
ORACLE = "oracle, chosen on the test set"


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
        return write_model_card(folder, ALL_METHODS[changed["method"]], loaded, **options).read_text()

    return written_again


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
    measured = {key: value for key, value in results(output_dir).items() if key.endswith(METRICS)}
    measured = {key: value for key, value in measured.items() if key.startswith(("validation_", "test_"))}
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
        assert {key: cell.split()[0] for key, cell in shown.items()} == {
            key: f"{100 * value:.1f}" for key, value in measured.items()
        }
        for key, cell in shown.items():
            if key.endswith("ac_score"):
                continue
            low, high, images = re.fullmatch(r"[\d.]+ \(([\d.]+) to ([\d.]+); n = (\d+)\)", cell).groups()
            assert 0 <= float(low) <= 100 * measured[key] + 0.05 and 100 * measured[key] - 0.05 <= float(high) <= 100
            assert 0 < int(images) <= 64


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
        assert f"{share:.2f}% of the training images are bias-conflicting" in card(output_dir)


def test_plain_counts_where_nothing_says_what_is_aligned(finished, written_again):
    data, _ = finished("lff")
    splits = load_image_splits(DataArguments(dataset_name=str(data)), 28)
    unaligned = {name: dataclasses.replace(split, is_conflicting=None) for name, split in splits.items()}
    of_splits, of_classes = tables(section(written_again("lff", splits=unaligned), "Data"))
    assert of_splits[0].keys() == {"split", "images"}
    counts = Counter(datasets.load_dataset(str(data), split="train")["label"])
    assert [row["train"] for row in of_classes] == [str(counts[label]) for label in range(4)]


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
        assert f"{100 * found['selection_aligned_recall']:.1f}% of the bias-aligned images" in text
        assert f"{100 * found['selection_conflicting_leak']:.1f}% of the bias-conflicting ones" in text
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
        assert content and not content.startswith("#")


@pytest.mark.parametrize("name", RUNS)
def test_the_card_renders(finished, name):
    _, output_dir = finished(name)
    body = card(output_dir).split("\n---\n", 1)[1]
    html = MarkdownIt("commonmark").enable("table").render(body)
    assert html.count("<table>") == (2 if name == "train only" else 3)
    assert re.findall(r'<img src="figures/(\w+).png"', html) == PICTURES[name]
    assert "|---" not in html and "```" not in html and "](" not in html and '<a href="config.yaml">' in html
    assert html.count("<h1>") == 1 and html.count("<h2>") == body.count("\n## ") >= 5
    for file in re.findall(r'<img src="(.*?)"', html):
        assert Image.open(output_dir / file).size[0] > 600
    drawn = {f"{name}.png" for name in PICTURES[name]}
    assert {file.name for file in output_dir.glob("figures/*")} == drawn


@pytest.mark.parametrize("name", ["lff", "conflicts only", "timm"])
def test_picture_of_the_groups_is_of_the_published_model(finished, tmp_path, name):
    data, output_dir = finished(name)
    model, transform, geometry = load_classifier(str(output_dir))
    test = load_image_splits(DataArguments(dataset_name=str(data)), geometry)["test"]
    predictions = predict_logits(model, test, transform, 64).argmax(dim=-1).numpy()
    columns = test.measured_by()
    attribute, names = columns["bias_labels"], COLOUR_NAMES
    if name == "conflicts only":
        attribute, names = columns["is_conflicting"], ["bias-aligned", "bias-conflicting"]
    again = group_heat_map(predictions, columns["labels"], attribute, CLASS_NAMES, names, tmp_path / "groups.png")
    assert again.read_bytes() == (output_dir / "figures" / "groups.png").read_bytes()
    if name == "timm":  # the published step is not the last
        assert results(output_dir)["published_step"] < 12


def test_a_run_without_bias_labels_says_so(finished):
    text = card(finished("no bias labels")[1])
    assert "has no bias labels" in section(text, "Accuracy")
    assert "without bias labels that cannot be measured" in section(text, "Intended use and limitations")
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
    assert f"The published step is {found['published_step']} of 12, **{ORACLE}**" in section(text, "Accuracy")
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
    assert f"The published step is {found['published_step']} of 12" in card(output_dir)
    assert "for comparison" not in card(finished("lff")[1])


def test_results_that_do_not_name_the_published_step_mean_the_last(finished, written_again):
    text = written_again("lff", without=("checkpoint_choice", "published_step"))
    assert "The published step is 12 of 12, the last one" in text
    assert text.split("# copy")[1] == card(finished("lff")[1]).split("# lff")[1]


def test_a_metric_that_one_split_lacks_is_neither_zero_nor_in_the_metadata(written_again):
    text = written_again("lff", without=("validation_conflicting_accuracy", "validation_ac_score"))
    validation, test = tables(section(text, "Accuracy"))[0]
    assert validation["Bias-conflicting"] == validation["AC score"] == "–"
    assert "–" not in validation["Bias-aligned"] + test["Bias-conflicting"]
    assert len(ModelCard(text).data.eval_results) == 10


@pytest.mark.parametrize("method", METHODS)
def test_each_method_names_its_papers(finished, method):
    _, output_dir = finished(method)
    text = card(output_dir)
    papers = {
        "2205.14594": "lff_be disent_be group_dro_be last_layer_be logit_adjusted product_of_experts",
        "2310.18562": "logit_adjusted",
        "1909.03683": "product_of_experts",
        "2007.02561": "lff lff_be",
        "2107.01372": "disent disent_be",
        "2107.09044": "jtt",
        "1911.08731": "group_dro_be",
        "2204.02937": "last_layer_be",
    }
    assert {paper for paper in papers if paper in section(text, "Method")} == {
        paper for paper, methods in papers.items() if method in methods.split()
    }
    cited = set(re.findall(r"@inproceedings\{(\w+),", text))
    expected = {
        "lee2023biasensemble": papers["2205.14594"],
        "nam2020learning": "lff lff_be disent disent_be",  # DisEnt weighs images as LfF does
        "lee2021learning": "disent disent_be",
        "liu2021just": "jtt",
        "sagawa2020distributionally": "group_dro_be",
        "kirichenko2023last": "last_layer_be",
        "tsirigotis2023group": "logit_adjusted",
        "clark2019dont": "product_of_experts",
    }
    assert cited == {name for name, methods in expected.items() if method in methods.split()}
    assert method in ModelCard(text).data.tags


def test_no_setting_brings_a_local_path(written_again):
    settings = dict.fromkeys(("init_from", "selection_dir", "compare_with", "judge", "method_file"), "/home/me/run")
    settings |= {"pretrained": True, "backbone": "local-dir:/home/me/weights/vit"}
    text = written_again("lff_be", settings)
    assert "/home" not in text and "`local-dir:path/to/vit`" in text
    for gone in ("/home/me/weights/vit", "local-dir:weights/vit"):
        assert ModelCard(written_again("lff_be", settings | {"backbone": gone})).data.base_model is None
    on_hub = written_again("lff_be", settings | {"backbone": "google/vit-base-patch16-224"})
    assert ModelCard(on_hub).data.base_model == "google/vit-base-patch16-224"


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
    assert "torchrun --nproc_per_node 2 train.py" in text  # accelerate starts one process on processors alone
    assert "\npython train.py" in written_again("lff")


@pytest.mark.parametrize(("hub_id", "place"), [("me/mine", "me/mine"), ("mine", REPOSITORY_PLACEHOLDER)])
def test_examples_name_the_repository_where_it_is_known(written_again, hub_id, place):
    text = written_again("timm", hub_id=hub_id)
    assert f'model="{place}"' in text and "# mine" in text
    assert (f'"hf-hub:{place}"' in text) == (place == hub_id)
