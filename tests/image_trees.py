"""Trees of real images in the layouts in which authors publish their datasets, and the scripts that read them."""

import csv
import importlib.util
from pathlib import Path

import datasets
import numpy as np
import synthetic
from PIL import Image

SCRIPTS = Path(__file__).parents[1] / "dataset_scripts"
ACTIONS = ["climbing", "diving", "fishing", "racing", "throwing", "pole vaulting"]


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OWN_LAYOUT = ("waterbirds", "dogs_and_cats_fur", "isic_rulers")  # the others read files of BiasEnsemble's authors
scripts = {name: load_script(name) for name in ("cmnist", "bffhq", "dogs_and_cats", "bar", *OWN_LAYOUT)}


class Tree:
    """Writes images, each with pixels of its own, and keeps what a faithful dataset must say of them.

    `expected` is {(config, split): {file name: (label, bias label or None, is conflicting)}}.
    """

    def __init__(self, root):
        self.root, self.expected = root, {}
        self.generator = np.random.default_rng(0)

    def add(self, name, rows, label, bias_label, conflicting):
        """Writes one image and enters it for every (config, split) in `rows`."""
        grey = synthetic.glyph(label % 4, self.generator) * 200 + self.generator.integers(0, 40, (28, 28))
        picture = Image.fromarray(grey.astype(np.uint8))
        content = synthetic.encoded(picture, "JPEG" if name.endswith("jpg") else "PNG")
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(content)
        for row in rows:
            self.expected.setdefault(row, {})[name] = (label, bias_label, conflicting)

    def add_authors(self, folder, rows, pairs, nested, with_bias=True):
        """Files `{number}_{label}_{bias label}`; the numbers fall, so that order of writing is not order of names."""
        for number, (label, bias_label) in zip(range(len(pairs), 0, -1), pairs, strict=True):
            place = f"{folder}/{label}" if nested else folder
            name = f"{place}/{number:03d}_{label}_{bias_label}.{'jpg' if number % 3 == 0 else 'png'}"
            self.add(name, rows, label, bias_label if with_bias else None, label != bias_label)


def every(classes, times, shift=0):
    return [(label, (label + shift) % classes) for label in range(classes) for _ in range(times)]


def severity_tree(root, severities, classes, shared_validation, nested_test):
    """cmnist, bffhq and dogs_and_cats."""
    tree = Tree(root)
    for count, severity in enumerate(severities, 1):
        tree.add_authors(f"{severity}/align", [(severity, "train")], every(classes, 3), True)
        tree.add_authors(f"{severity}/conflict", [(severity, "train")], every(classes, count, 1)[1:], True)
        if not shared_validation:
            tree.add_authors(f"{severity}/valid", [(severity, "validation")], every(classes, 1) + [(0, 1)], False)
    configs = list(severities)
    if shared_validation:
        tree.add_authors("valid", [(c, "validation") for c in configs], every(classes, 1) + [(0, 1)], False)
    test = every(classes, 2) + every(classes, 1, 1)
    tree.add_authors("test", [(c, "test") for c in configs], test, nested_test)
    return tree


def cmnist_tree(root):
    return severity_tree(root, ["0.5pct", "1pct", "2pct", "5pct"], 10, False, True)


def bffhq_tree(root):
    return severity_tree(root, ["0.5pct", "1pct", "2pct", "5pct"], 2, True, False)


def dogs_and_cats_tree(root):
    return severity_tree(root, ["1pct", "5pct"], 2, False, True)


def bar_tree(root):
    tree, configs = Tree(root), ["1pct", "5pct"]
    tree.add_authors("train/align", [(c, "train") for c in configs], every(6, 3), True, with_bias=False)
    for config, count in zip(configs, (1, 2), strict=True):
        tree.add_authors(
            f"train/conflict/{config}", [(config, "train")], every(6, count, 1)[2:], True, with_bias=False
        )
    tree.add_authors("valid", [(c, "validation") for c in configs], every(6, 1) + [(2, 4)], True, with_bias=False)
    tree.add_authors("test", [(c, "test") for c in configs], every(6, 2, 1), True, with_bias=False)
    return tree


def waterbirds_tree(root):
    tree, lines = Tree(root), []
    for number in range(40):
        label, place, split = number % 2, (number // 2) % 2, (number // 4) % 3
        name = f"{number % 3:03d}.Some_bird/bird {number}.jpg"
        tree.add(name, [("default", ("train", "validation", "test")[split])], label, place, label != place)
        lines.append([number, name, label, split, place, f"/f/forest/{number}.jpg"])
    with open(root / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["img_id", "img_filename", "y", "split", "place", "place_filename"], *lines])
    return tree


TREES = {
    "cmnist": cmnist_tree,
    "bffhq": bffhq_tree,
    "dogs_and_cats": dogs_and_cats_tree,
    "bar": bar_tree,
    "waterbirds": waterbirds_tree,
}
TOP = {"waterbirds": "waterbird_complete95_forest2water2"}  # name of the authors' folder, where it is not ours
NAMES = {
    "cmnist": (list("0123456789"), [f"color_{digit}" for digit in range(10)]),
    "bffhq": (["young", "old"], ["gender_0", "gender_1"]),
    "dogs_and_cats": (["cat", "dog"], ["brightness_0", "brightness_1"]),
    "bar": (ACTIONS, None),
    "waterbirds": (["landbird", "waterbird"], ["land", "water"]),
}


def run(name, source, out, *options, by="--source_dir"):
    authors = [] if name in OWN_LAYOUT or "--source" in options else ["--source", "authors"]
    return scripts[name].main([*authors, by, str(source), "--output_dir", str(out), *options])


def opened(folder, config, tmp_path):
    """Plain `load_dataset`, images left encoded; the cache is this test's own."""
    data = datasets.load_dataset(str(folder), config, cache_dir=str(tmp_path / "cache"))
    return {split: rows.cast_column("image", datasets.Image(decode=False)) for split, rows in data.items()}


def all_bytes(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_error(capsys, script, *words):
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"{script}.py: error: "), error
    assert [word for word in words if word not in error] == [], error
