"""The page with the published commands, and the recipes it names: complete, as published, and they run."""

import dataclasses
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from PIL import Image
from reference_files import expected_logits, write_checkpoint
from runs import ROOT, slow_but
from synthetic import png, write_parquet

from hf_biasensemble.arguments import ModelArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.methods import METHODS
from hf_biasensemble.models.build import build_members
from hf_biasensemble.models.export import load_classifier
from hf_biasensemble.models.preprocessing import with_preprocessing
from hf_biasensemble.runs.run_arguments import parse_run

SEVERITIES = {
    "cmnist": ("0.5pct", "1pct", "2pct", "5pct"),
    "bffhq": ("0.5pct", "1pct", "2pct", "5pct"),
    "dogs_and_cats": ("1pct", "5pct"),
    "bar": ("1pct", "5pct"),
}
CLASS_NAMES = {
    "cmnist": [str(digit) for digit in range(10)],
    "bffhq": ["young", "old"],
    "dogs_and_cats": ["cat", "dog"],
    "bar": ["climbing", "diving", "fishing", "racing", "throwing", "pole vaulting"],
}

# What the authors' commands and code say, by our names.
PUBLISHED_OF_ALL = {
    "lr_scheduler_type": "constant",
    "weight_decay": 0,
    "max_grad_norm": 0,
    "gradient_accumulation_steps": 1,
    "max_steps": 50_000,
    "dataloader_drop_last": True,
    "eval_strategy": "steps",
    "eval_steps": 500,
}
SQUASHED = {"resize_mode": "squash", "interpolation": "bilinear", "crop_pct": 1}
MLP = {
    "backbone": "mlp",
    "backbone_args": None,
    "pretrained": False,
    "image_size": 28,
    **SQUASHED,
    "image_mean": [0, 0, 0],
    "image_std": [1, 1, 1],
    "image_scale": 255,
    "crop_padding": 0,
    "horizontal_flip": False,
}
RESNET = {
    "backbone": "resnet18",
    "backbone_args": '{"zero_init_last": false}',
    "pretrained": False,
    "image_size": 224,
    **SQUASHED,
    "image_mean": [0.4914, 0.4822, 0.4465],
    "image_std": [0.2023, 0.1994, 0.2010],
    "image_scale": 1,
    "crop_padding": 4,
    "horizontal_flip": True,
}
PUBLISHED = {
    "cmnist": {"learning_rate": 1e-2, "per_device_train_batch_size": 256, **MLP},
    "bffhq": {"learning_rate": 1e-4, "per_device_train_batch_size": 64, **RESNET},
    "dogs_and_cats": {"learning_rate": 1e-4, "per_device_train_batch_size": 64, **RESNET},
    "bar": {
        "learning_rate": 1e-5,
        "per_device_train_batch_size": 64,
        **RESNET,
        "backbone": "resnet18.tv_in1k",
        "pretrained": True,
    },
}
LOSS_TABLES = {"loss_average_decay": 0.7, "generalized_cross_entropy_q": 0.7}
MEMBERS = {
    "num_members": 5,
    "member_steps": 1000,
    "member_threshold": 0.99,
    "member_agreement": 3,
    "keep_member": "best",
    "member_eval_steps": 500,
    "share_batches": False,
}
CURRICULUM = {"swap_start_step": 10_000, "step_decay_steps": 10_000, "step_decay_start": 10_000}
DISENT = {
    "cmnist": {"lambda_swap": 1, "lambda_dis": 10, "lambda_swap_bias": 10, "step_decay_factor": 0.5},
    "bffhq": {"lambda_swap": 0.1, "lambda_dis": 2, "lambda_swap_bias": 2, "step_decay_factor": 0.1},
    "dogs_and_cats": {"lambda_swap": 1, "lambda_dis": 1, "lambda_swap_bias": 1, "step_decay_factor": 0.1},
    "bar": {"lambda_swap": 1, "lambda_dis": 1, "lambda_swap_bias": 1, "step_decay_factor": 0.1},
}


def published(method: str, data: str) -> dict:
    """The published settings; those of a baseline are the ones of its method with BiasEnsemble (ERM: of LfF)."""
    settings = {"method": method, **PUBLISHED_OF_ALL, **PUBLISHED[data]}
    settings |= {**CURRICULUM, **DISENT[data]} if method.startswith("disent") else {"step_decay_steps": 0}
    settings |= LOSS_TABLES if method != "erm" else {}
    return settings | (MEMBERS if method.endswith("_be") else {})


def resolved_settings(words: list[str]) -> dict:
    """All settings that a command line comes to, by name."""
    parsed = [part for part in parse_run(words) if part]
    settings = {name: value for part in reversed(parsed) for name, value in vars(part).items()}
    return settings | {
        name: parsed[-1].in_steps(name) for name in CURRICULUM if name in settings
    }  # written as shares of max_steps


# The page ------------------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "published_commands.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
TRAINING = [line for line in COMMANDS if " train.py " in line]
TESTING = [line for line in COMMANDS if " test.py " in line]
START = {"train": ["accelerate", "launch", "train.py"], "test": ["python", "test.py"]}


def words_of(line: str, command: str) -> list[str]:
    """What a line of the page gives to the command."""
    words = shlex.split(line)
    start = START[command]
    assert words[: len(start)] == start
    return words[len(start) :]


def options_of(line: str, command: str) -> dict[str, str]:
    words = words_of(line, command)
    assert all(name.startswith("--") for name in words[::2])
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert len(options) == len(words) / 2
    return options


def test_every_published_training_command_has_one_line():
    assert {line for line in COMMANDS if not line.startswith("#")} == {*TRAINING, *TESTING}
    expected = [
        {
            "--config": f"configs/{method}/{data}.yaml",
            "--dataset_name": f"data/{data}",
            "--dataset_config_name": severity,
            "--output_dir": f"outputs/{method}_{data}_{severity}",
        }
        for data, severities in SEVERITIES.items()
        for method in ("lff_be", "disent_be")
        for severity in severities
    ]
    assert len(expected) == 24
    assert [options_of(line, "train") for line in TRAINING] == expected


def test_every_published_test_command_has_one_line():
    options = [options_of(line, "test") for line in TESTING]
    assert [given.pop("--method") for given in options] == ["lff", "disent"]
    common = {"--reference_checkpoint": "DIR", "--reference_dataset": "cmnist", "--dataset_name": "data/cmnist"}
    assert options == [common | {"--dataset_config_name": "1pct", "--split": "test"}] * 2


def test_the_page_states_the_published_values():
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    stated = {row[0]: row for row in rows if row[0] in SEVERITIES}
    assert stated.keys() == SEVERITIES.keys()
    for data, (_, severities, rate, start, batch, *factors) in stated.items():
        settings = published("disent_be", data)
        assert tuple(severities.split(", ")) == SEVERITIES[data]
        assert float(rate) == settings["learning_rate"]
        assert start.startswith("ImageNet" if settings["pretrained"] else "scratch")
        assert int(batch) == settings["per_device_train_batch_size"]
        names = ("lambda_swap", "lambda_dis", "lambda_swap_bias", "step_decay_factor")
        assert [float(factor) for factor in factors] == [settings[name] for name in names]


def test_the_page_maps_to_options_that_exist():
    table = re.search(r"\| theirs \| ours .*?\n\n", PAGE, re.DOTALL)[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:] if line]
    ours = {name for row in rows for cell in row[1::2] for name in re.findall(r"--(\w+)", cell)}
    assert len(ours) == 15
    assert ours <= METHODS["disent_be"].option_names() | METHODS["lff"].option_names()


# The recipes ---------------------------------------------------------------------------------------------------------

OF_THE_PAPERS = ("erm", "lff", "disent", "lff_be", "disent_be")
RECIPES = [(method, data) for method in OF_THE_PAPERS for data in SEVERITIES]


@pytest.mark.parametrize("method, data", RECIPES)
def test_recipe_is_the_published_one(method, data, tmp_path):
    file = ROOT / "configs" / method / f"{data}.yaml"
    words = ["--config", str(file), "--dataset_name", "data", "--output_dir", str(tmp_path)]
    settings = resolved_settings(words)
    expected = published(method, data)
    assert {name: settings[name] for name in expected} == expected
    assert yaml.safe_load(file.read_text(encoding="utf-8")).keys() <= expected.keys()


@pytest.mark.parametrize("method, data", RECIPES)
def test_every_value_of_a_recipe_names_its_source(method, data):
    text = (ROOT / "configs" / method / f"{data}.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    header, _, body = text.partition("\nmethod:")
    assert all(line.startswith("# ") for line in header.splitlines())
    published_itself = method.endswith("_be")
    assert ("as published" in header) == published_itself
    assert ("the authors publish no command" in " ".join(header.split("\n# "))) == (not published_itself)
    lines = [line for line in f"method:{body}".splitlines() if line]
    assert len(lines) == len(recipe)
    for line in lines:
        name, source, where = re.fullmatch(r"(\w+): [^#]*[^# ] +# (command|code|data|ours): (\S.*)", line).groups()
        quoted = re.search(r"--\w+ ([\d.]+)(?:, of (\d+))?$", where.split(";")[0]) if source == "command" else None
        if quoted:  # the quoted option says what the recipe says
            assert float(quoted[1]) / float(quoted[2] or 1) == recipe[name]
    assert max(map(len, text.splitlines())) <= 119


@pytest.mark.parametrize("data", ["bffhq", "bar"])
def test_network_of_a_recipe_is_that_of_torchvision(data):
    settings = published("disent_be", data)
    names = {field.name for field in dataclasses.fields(ModelArguments)}
    arguments = {name: value for name, value in settings.items() if name in names}
    model_args = ModelArguments(**arguments | {"pretrained": False})
    pair = METHODS["disent_be"].network(model_args, CLASS_NAMES[data], 0)
    theirs = torchvision.models.resnet18().state_dict()
    for encoder in pair.debiased.encoders():
        ours = encoder.state_dict()
        assert theirs.keys() - ours.keys() == {"fc.weight", "fc.bias"} and ours.keys() <= theirs.keys()
        for name, value in ours.items():
            assert value.shape == theirs[name].shape
            if value.is_floating_point() and value.numel() > 1:  # both draw from the same distribution
                assert value.std().item() == pytest.approx(theirs[name].std().item(), rel=0.05)
                assert value.mean().item() == pytest.approx(theirs[name].mean().item(), abs=0.01)
    assert pair.debiased.classifier.in_features == 1024


@pytest.mark.slow
def test_pretrained_weights_of_bar_are_those_of_torchvision_and_start_every_network(tmp_path):
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    settings = published("disent_be", "bar")
    assert timm.models.get_pretrained_cfg(settings["backbone"]).url == weights.url
    file = tmp_path / "torchvision.pth"  # a file like the one at that address
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), file)
    backbone_args = json.loads(settings["backbone_args"]) | {"pretrained_cfg_overlay": {"file": str(file)}}
    model_args = with_preprocessing(ModelArguments(settings["backbone"], json.dumps(backbone_args), pretrained=True))
    names = CLASS_NAMES["bar"]
    pair = METHODS["lff_be"].network(model_args, names, 0)
    networks = [pair.biased, pair.debiased, METHODS["disent_be"].network(model_args, names, 0).debiased]
    networks += build_members(model_args, names, num_members=2, seed=0).members
    encoders = [encoder for network in networks for encoder in network.encoders()]
    assert len(encoders) == 6
    for encoder in encoders:
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in encoder.state_dict().items())


# Running the page ----------------------------------------------------------------------------------------------------


def num_train(data: str, severity: str) -> int:
    """So many training images that each configuration of a dataset has its own number."""
    return 20 + 2 * SEVERITIES[data].index(severity)


def write_split(folder: Path, split: str, pixels: np.ndarray, labels: list[int], class_names: list[str]) -> None:
    """One Parquet split; every seventh image counts as bias-conflicting."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=class_names)})
    features["is_conflicting"] = datasets.Value("bool")
    columns = {
        "image": [{"bytes": png(image), "path": None} for image in pixels],
        "label": labels,
        "is_conflicting": [number % 7 == 6 for number in range(len(labels))],
    }
    write_parquet(folder / f"{split}.parquet", columns, features)


def write_card(folder: Path, config_names: Sequence[str]) -> None:
    """The card that makes subfolders the configurations of a dataset."""
    configs = {"configs": [{"config_name": name, "data_dir": name} for name in config_names]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(configs)}---\n", encoding="utf-8")


def noise(count: int, seed: int) -> np.ndarray:
    """Images of random pixels (count, 28, 28, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder like the root of the repository with a tiny `data/{dataset}` of the right classes and severities."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "configs").symlink_to(ROOT / "configs")
    for data, names in CLASS_NAMES.items():
        for severity in SEVERITIES[data]:
            sizes = {"train": num_train(data, severity), "validation": 12, "test": 12}
            for seed, (split, count) in enumerate(sizes.items()):
                labels = [number % len(names) for number in range(count)]
                write_split(folder / "data" / data / severity, split, noise(count, seed), labels, names)
        write_card(folder / "data" / data, SEVERITIES[data])
    return folder


# Two steps, no download. A dataset of fewer images than a batch makes smaller batches, so the batch size stays as is.
SMALL = {"max_steps": 2, "member_steps": 2, "member_eval_steps": 1, "member_threshold": 0}
SMALL |= {"use_cpu": "true", "disable_tqdm": "true"}
SMALL_RESNET = {"image_size": 32, "pretrained": "false"}
NARROW = {"channels": [8, 8, 16, 16]}


# Lines of a method and dataset differ in the severity alone, which is a name of a configuration: one of each runs.
DIFFERENT = list({options_of(line, "train")["--config"]: line for line in TRAINING}.values())


@pytest.mark.parametrize("line", slow_but(DIFFERENT, *DIFFERENT[:2]), ids=lambda line: line.rpartition("/")[2])
def test_training_command_of_the_page_runs(line, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    page = options_of(line, "train")
    _, method, data = Path(page["--config"]).with_suffix("").parts
    severity = page["--dataset_config_name"]
    expected = published(method, data)
    small = dict(SMALL)
    if expected["backbone"] != "mlp":
        small |= SMALL_RESNET | {"backbone_args": json.dumps(json.loads(expected["backbone_args"]) | NARROW)}
    overrides = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    assert run_command("train", [*words_of(line, "train"), *overrides]) == 0

    output_dir = Path(page["--output_dir"])
    settings = yaml.safe_load((output_dir / "config.yaml").read_text(encoding="utf-8"))
    for name, value in page.items():
        assert name == "--config" or settings[name.removeprefix("--")] == value
    stated = (expected.keys() & settings.keys()) - small.keys()
    named = {"method", "learning_rate", "per_device_train_batch_size", "backbone", *DISENT[data]}
    assert named & expected.keys() <= stated
    settings |= {
        name: settings[name] * 50_000 for name in CURRICULUM if settings.get(name, 1) < 1
    }  # a share of max_steps
    assert {name: settings[name] for name in stated} == {name: expected[name] for name in stated}

    selection = datasets.Dataset.from_parquet(str(output_dir / "selection" / "selection.parquet"))
    assert len(selection) == num_train(data, severity)
    state = json.loads((output_dir / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 2 and state["train_batch_size"] == expected["per_device_train_batch_size"]
    model, transform, geometry = load_classifier(str(output_dir))
    assert list(model.config.id2label.values()) == CLASS_NAMES[data]
    assert getattr(model.config, "num_encoders", 1) == (2 if method == "disent_be" else 1)
    size = geometry.image_size
    with torch.inference_mode():
        logits = model(transform(torch.zeros(2, 3, size, size, dtype=torch.uint8), training=False)).logits
    assert logits.shape == (2, len(CLASS_NAMES[data])) and torch.isfinite(logits).all()
    assert 0 <= json.loads((output_dir / "all_results.json").read_text(encoding="utf-8"))["test_accuracy"] <= 1


@pytest.mark.parametrize("line", TESTING, ids=lambda line: options_of(line, "test")["--method"])
def test_test_command_of_the_page_runs(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = options_of(line, "test")
    method, data = page["--method"], page["--reference_dataset"]
    write_checkpoint(Path(page["--reference_checkpoint"]), method, data, seed=2)
    pixels = noise(40, seed=0)
    images = [Image.fromarray(image) for image in pixels]
    debiased, biased = (
        expected_logits(method, data, images, which, seed=2).argmax(dim=1).numpy() for which in ("debiased", "biased")
    )
    labels = np.where(np.arange(40) < 30, debiased, (debiased + 1) % 10)  # the debiased network gets 30 of 40 right
    assert (biased == labels).mean() < 0.5
    folder = Path(page["--dataset_name"])
    write_split(folder / page["--dataset_config_name"], page["--split"], pixels, labels.tolist(), CLASS_NAMES[data])
    write_card(folder, [page["--dataset_config_name"]])
    assert run_command("test", [*words_of(line, "test"), "--output_file", "measured.json"]) == 0
    assert json.loads(Path("measured.json").read_text(encoding="utf-8"))["test_accuracy"] == 0.75
