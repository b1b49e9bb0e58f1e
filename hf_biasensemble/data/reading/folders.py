"""Decides which folders with images are splits, which are classes, and which are neither."""

import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import datasets
import pyarrow as pa

from hf_biasensemble.data.reading.files import PHOTOGRAPH_SUFFIXES, Parts, Tree, images, joined, listed
from hf_biasensemble.data.reading.splits import is_unlabelled, use_of, with_affix
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5


@dataclass
class ClassFolders:
    """The meaning of the folders in a tree: `place` maps each folder of images to its split, if any, and its class."""

    place: dict[Parts, tuple[str | None, str]] = field(default_factory=dict)
    splits_from: str | None = None  # in words
    notes: list[str] = field(default_factory=list)

    def classes(self) -> list[str]:
        """The names of the classes, sorted."""
        return sorted({name for _, name in self.place.values()})

    def rows(self, tree: Tree, image: str = "image", label: str = "label") -> dict[str, datasets.Dataset]:
        """The image and class of each file, by split, in columns of these names."""
        chunks: dict[str, list[pa.Table]] = {}
        for parts, names in tree.images:
            if parts in self.place:
                split, name = self.place[parts]
                paths = joined((str(tree.root), *parts) if tree.root != Path() else parts, names)
                columns = {image: paths, label: pa.repeat(pa.scalar(name, pa.string()), len(names))}
                chunks.setdefault(split or "train", []).append(pa.table(columns))
        whole = {split: datasets.Dataset(pa.concat_tables(tables)) for split, tables in chunks.items()}
        return {split: rows.cast_column(image, datasets.Image()) for split, rows in whole.items()}


def class_folders(tree: Tree, split_names: Collection[str] = (), take_as_classes: bool = False) -> ClassFolders:
    """Tells splits from classes by the names of folders and, above all, by the class folders in them.

    `split_names` adds to the usual names of splits; with `take_as_classes`, the top folders are classes whatever their
    names. Refuses images outside class folders, and ambiguous folders.
    """
    found = ClassFolders()
    if not tree.images:
        return found
    counts: Counter[Parts] = Counter()
    for parts, names in tree.images:
        counts[parts] += len(names)
    base = _wrapper(tree, counts, split_names)
    if base:
        found.notes.append(f"everything is in {'/'.join(base)}/")
    below = {parts[len(base) :]: count for parts, count in counts.items()}
    tops = [
        _Top(name, {parts: below[parts] for parts in group}, split_names)
        for name, group in groupby(sorted(filter(None, below)), key=itemgetter(0))
    ]
    splits: dict[str, int | None] = {}
    inside = False
    if not take_as_classes:
        splits = _splits(tops, tree.root, found.notes)
        inside = not splits and _split_inside_classes(below)
        if not splits and not inside:
            _refuse_a_dataset_among_classes(tops, tree.root, tree.root.joinpath(*base))
    for parts in counts:
        rest = parts[len(base) :]
        depth = splits[rest[0]] if splits and rest else 0
        if depth is None:
            continue
        if len(rest) <= depth:
            names = next(names for folder, names in tree.images if folder == parts)
            raise BiasEnsembleError(
                f"{tree.root}: expected images in one folder for each class, found "
                f"{tree.root.joinpath(*parts, names[0].as_py())} in none; move it into a class folder, or elsewhere"
            )
        found.place[parts] = rest[0] if splits else rest[1] if inside else None, rest[depth]
    if splits or inside:
        found.splits_from = "the top folders" if splits else "the folders inside the classes"
    level = len(base) + max((depth or 0 for depth in splits.values()), default=0)
    inner = dict.fromkeys(parts[level + 1] for parts in found.place if len(parts) > level + 1 + inside)
    if inner and not inside:
        found.notes.append(f"subfolders of classes are part of their class: {', '.join([*inner][:_NAMED])}")
    found.notes += _without_images(tree, counts, level, base)
    return found


def _wrapper(tree: Tree, counts: dict[Parts, int], split_names: Collection[str]) -> Parts:
    """The innermost folder that holds everything; archives often wrap a dataset in one or two folders."""
    common = tuple(os.path.commonprefix(list(counts)))
    if common in counts:
        common = common[:-1]  # a class
    for depth, name in enumerate(common):
        above, inner = common[:depth], common[: depth + 1]
        beside = [folder for folder in tree.folders if folder and folder[:-1] == above and folder != inner]
        if use_of(name) or name in split_names or any(_may_be_class(tree, folder) for folder in beside):
            return above
    return common


def _may_be_class(tree: Tree, folder: Parts) -> bool:
    """Whether a folder without images is empty, or holds photographs that PIL cannot read."""
    suffixes = {suffix.lower() for suffix in tree.other_files(folder)}
    return suffixes <= PHOTOGRAPH_SUFFIXES and not tree.has_table(folder)


class _Top:
    """A folder at the top, with its number of images, its class folders and their depth, the split that its name
    means, and the rest of that name (`None` if the name means just the split)."""

    def __init__(self, name: str, below: dict[Parts, int], split_names: Collection[str]):
        self.name, self.images = name, sum(below.values())
        # Class folders in `seg_train/seg_train` and `train/images` lie one level deeper.
        self.depth = 2 if {parts[1:2] for parts in below} in ({(name,)}, {("images",)}) else 1
        self.classes = {parts[self.depth] for parts in below if len(parts) > self.depth}
        self.use, self.rest = use_of(name) or (name if name in split_names else None), None
        if self.use is None:
            self.use, self.rest = with_affix(name) or (None, None)

    def is_split(self, tops: list["_Top"]) -> bool:
        """Whether the name means a split. A longer name counts only beside a folder with the same rest and another
        split, or a split that shares a class."""
        others = [top for top in tops if top is not self and top.use]
        return self.use is not None and (
            self.rest is None
            or any((top.rest == self.rest and top.use != self.use) or top.classes & self.classes for top in others)
        )


def _splits(tops: list[_Top], root: Path, notes: list[str]) -> dict[str, int | None]:
    """The depth of the class folders in each split folder (`None`: it has no labels); empty if there are no splits."""
    likely = [top for top in tops if top.is_split(tops)]
    structured = [top for top in likely if top.classes]
    if not structured:
        if not likely or (len(likely) < len(tops) and len({top.use for top in likely}) < 2):
            return {}  # a class may have the name of a split
        raise BiasEnsembleError(
            f"{root}: expected class folders in {', '.join(f'{top.name}/' for top in likely[:_NAMED])}, found images "
            "directly in them; list their classes in a table and pass it as --dataset_name FILE.csv, or "
            f"use {' and '.join(top.name for top in likely[:2])} as classes with --layout folders"
        )
    unlabelled = [
        top for top in tops if not top.classes and (top.use == "test" if top in likely else is_unlabelled(top.name))
    ]
    for top in unlabelled:
        notes.append(f"not read: {top.name}/ ({images(top.images)} in no class folder, so without labels)")
    in_no_split = [top for top in tops if top not in structured and top not in unlabelled]
    if in_no_split:
        extra = in_no_split[0]
        as_split = f"use it with --test_split {extra.name}" if extra.classes else f"move {extra.name} elsewhere"
        raise BiasEnsembleError(
            f"{root}: expected split folders or class folders, found split folders "
            f"({', '.join(top.name for top in structured)}) beside others "
            f"({', '.join(top.name for top in in_no_split[:_NAMED])}); {as_split}, or use "
            f"{', '.join(top.name for top in tops[:3])} as classes with --layout folders"
        )
    return {top.name: top.depth if top in structured else None for top in tops}


def _split_inside_classes(folders: Iterable[Parts]) -> bool:
    """Whether each class folder contains split folders: `owl/train/1.png`."""
    uses = {use_of(parts[1]) if len(parts) > 1 else None for parts in folders}
    return None not in uses and len(uses) > 1 and "train" in uses


def _refuse_a_dataset_among_classes(tops: list[_Top], root: Path, place: Path) -> None:
    """Refuses a folder that contains split folders, or copies of all other class folders."""
    for top in tops:
        others = [other.name for other in tops if other is not top]
        has_splits = {"train"} < {use_of(name) for name in top.classes} - {None}
        if has_splits or (len(others) > 1 and top.classes.issuperset(others)):
            raise BiasEnsembleError(
                f"{root}: expected class folders, found {top.name}/, which holds a whole dataset "
                f"({', '.join(sorted(top.classes)[:_NAMED])}), beside {', '.join(others[:_NAMED])}; use only this "
                f"folder with --dataset_name {place / top.name}, or all as classes with --layout folders"
            )


def _without_images(tree: Tree, counts: dict[Parts, int], level: int, base: Parts) -> list[str]:
    """Notes on the folders without images, at the top and beside the class folders."""
    holding = {parts[:depth] for parts in counts for depth in range(len(parts) + 1)}
    notes = []
    for folder in tree.folders:
        at_top = len(folder) <= len(base) + 1
        if folder in holding or not (at_top or len(folder) == level + 1) or folder[:-1] not in holding:
            continue
        others = tree.other_files(folder) + Counter({"table": int(tree.has_table(folder))})
        what = f"{listed(others)}, which cannot be read as images" if others else "empty"
        notes.append(f"no image in {'/'.join(folder)}/ ({what})")
    return notes
