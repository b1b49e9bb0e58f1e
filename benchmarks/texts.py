"""Make a dataset of text vectors with a planted shortcut: which library is a paragraph of documentation from?

    python -m benchmarks.texts FOLDER --conflicting_share 0.05

The texts are paragraphs from the docstrings of four installed libraries, with the library names removed. Each gets one
of four planted words. In training the word matches the class except in a fraction `conflicting_share` of the texts; in
the test split it is independent of the class. Vectors are hashed words and word pairs, weighted by TF-IDF of the
training texts. Train with `--dataset_name FOLDER --feature_column embedding`.
"""

import argparse
import ast
import importlib.util
import re
import zlib
from pathlib import Path

import datasets
import numpy as np

LIBRARIES = ("matplotlib", "pandas", "scipy", "torch")
PLANTED = ("zebra", "quartz", "violin", "glacier")
WIDTH = 2048
SIZES = {"train": 1000, "validation": 150, "test": 300}
"""Texts per class."""


def paragraphs(library: str) -> list[str]:
    """Distinct paragraphs of 12 to 60 words from the docstrings of a library, in a fixed order."""
    spec = importlib.util.find_spec(library)
    assert spec is not None and spec.submodule_search_locations
    names = re.compile("|".join([*LIBRARIES, "pyplot", "mpl", "plt", "pd"]), re.IGNORECASE)
    found: dict[str, None] = {}
    for file in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")):
        if "tests" in file.parts or "testing" in file.parts:
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for part in (ast.get_docstring(node) or "").split("\n\n"):
                    text = names.sub("", " ".join(part.split()))
                    if 12 <= len(text.split()) <= 60 and ">>>" not in text and "----" not in text:
                        found[text] = None
    return list(found)


def hashed(texts: list[str]) -> np.ndarray:
    """Square roots (N, `WIDTH`) of the counts of hashed words and pairs of neighbouring words."""
    counts = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for row, text in enumerate(texts):
        words = re.findall(r"[a-z]+", text.lower())
        for word in [*words, *map(" ".join, zip(words, words[1:], strict=False))]:
            counts[row, zlib.crc32(word.encode()) % WIDTH] += 1
    return np.sqrt(counts)


def main() -> None:
    """Writes the dataset and prints how many texts were found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="Output folder, for datasets.load_from_disk.")
    parser.add_argument("--conflicting_share", type=float, default=0.05, help="Fraction of the training texts.")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    columns: dict[str, dict[str, list]] = {split: {"text": [], "label": [], "bias_label": []} for split in SIZES}
    for label, library in enumerate(LIBRARIES):
        texts = paragraphs(library)
        print(f"{library}: {len(texts):,} paragraphs")
        rows = generator.permutation(len(texts))[: sum(SIZES.values())]
        for split, count in SIZES.items():
            mine, rows = rows[:count], rows[count:]
            share = 0.75 if split == "test" else options.conflicting_share
            others = (label + generator.integers(1, 4, count)) % 4
            bias = np.where(np.arange(count) < round(share * count), others, label)
            for row, planted in zip(mine, bias, strict=True):
                words = texts[row].split()
                words.insert(int(generator.integers(len(words) + 1)), PLANTED[planted])
                columns[split]["text"].append(" ".join(words))
                columns[split]["label"].append(library)
                columns[split]["bias_label"].append(LIBRARIES[planted])
    counts = {split: hashed(of["text"]) for split, of in columns.items()}
    rarity = np.log(len(counts["train"]) / (1 + (counts["train"] > 0).sum(axis=0)))
    for split, of in columns.items():
        vectors = counts[split] * rarity
        of["embedding"] = list(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    data = datasets.DatasetDict({split: datasets.Dataset.from_dict(of) for split, of in columns.items()})
    data.save_to_disk(options.folder)
    print({split: len(rows) for split, rows in data.items()})


if __name__ == "__main__":
    main()
