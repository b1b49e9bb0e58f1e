"""Class folders: which folders with images are splits, which are classes, and which are neither."""

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from hf_biasensemble.data.reading.files import PHOTOGRAPH_SUFFIXES, Parts, Tree, images, joined, listed
from hf_biasensemble.data.reading.splits import is_unlabelled, use_of, with_affix
from hf_biasensemble.internal.errors import BiasEnsembleError

_NAMED = 5


@dataclass
class ClassFolders:
    """What the folders below one folder mean.

    Attributes:
        place: By folder that holds images, the name of its split (`None` where there are none) and its class.
        splits_from: Where the names of the splits are, in words; `None` where there are none.
        notes: What is not read, and why.
    """

    place: dict[Parts, tuple[str | None, str]] = field(default_factory=dict)
    splits_from: str | None = None
    notes: list[str] = field(default_factory=list)

    def classes(self) -> list[str]:
        """Their names, sorted."""
        return sorted({name for _, name in self.place.values()})

    def tables(self, tree: Tree) -> dict[str | None, pa.Table]:
        """Path and class of each image, by split."""
        chunks: dict[str | None, list[pa.Table]] = {}
        for parts, names in tree.images:
            if parts in self.place:
                split, name = self.place[parts]
                paths = joined((str(tree.root), *parts) if tree.root != Path() else parts, names)
                columns = {"image": paths, "label": pa.repeat(pa.scalar(name, pa.string()), len(names))}
                chunks.setdefault(split, []).append(pa.table(columns))
        return {split: pa.concat_tables(tables) for split, tables in chunks.items()}


def class_folders(tree: Tree, split_names: Collection[str] = (), take_as_classes: bool = False) -> ClassFolders:
    """Decides what each folder with images is, by its name and, above all, by the class folders in it.

    Args:
        tree (`Tree`): What lies in the folder.
        split_names (`Collection[str]`, *optional*): Names of splits, besides the usual words.
        take_as_classes (`bool`): The first folders are classes, whatever their names.

    Raises:
        `BiasEnsembleError`: If an image is in no class folder, or the folders are ambiguous.
    """
    counts = tree.image_folders()
    if not counts:
        return ClassFolders()
    base = _wrapper(tree, counts, split_names)
    found = ClassFolders()
    if base:
        found.notes.append(f"everything is in {'/'.join(base)}/")
    below: dict[str, dict[Parts, int]] = {}
    for parts, count in counts.items():
        if len(parts) > len(base):
            below.setdefault(parts[len(base)], {})[parts[len(base) :]] = count
    tops = [_Top(name, below[name], split_names) for name in sorted(below)]
    splits = {} if take_as_classes else _splits(tops, tree.root, found.notes)
    inside = not splits and not take_as_classes and _split_inside_classes([parts[len(base) :] for parts in counts])
    if not splits and not inside and not take_as_classes:
        _refuse_a_dataset_among_classes(tops, tree.root, tree.root.joinpath(*base))
    for parts in counts:
        rest = parts[len(base) :]
        depth = splits[rest[0]] if splits and rest else 0
        if depth is None:
            continue
        if len(rest) <= depth:
            raise BiasEnsembleError(
                f"{tree.root}: expected images in one folder for each class, found "
                f"{tree.root / tree.first_image(parts)} in none; move it into the folder of its class, or elsewhere"
            )
        found.place[parts] = rest[0] if splits else rest[1] if inside else None, rest[depth]
    if splits or inside:
        found.splits_from = "top folders" if splits else "folders inside the classes"
    level = len(base) + max((depth or 0 for depth in splits.values()), default=0)
    inner = dict.fromkeys(parts[level + 1] for parts in found.place if len(parts) > level + 1 + inside)
    if inner and not inside:
        found.notes.append(f"subfolders of classes are part of their class: {', '.join([*inner][:_NAMED])}")
    found.notes += _without_images(tree, counts, level, base)
    return found


def _wrapper(tree: Tree, counts: dict[Parts, int], split_names: Collection[str]) -> Parts:
    """The folder that holds everything, if that is not the top folder: archives often have one or two of these."""
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
    """Whether a folder without images is empty, or holds photographs in another format."""
    suffixes = {suffix.lower() for suffix in tree.other_files(folder)}
    return suffixes <= PHOTOGRAPH_SUFFIXES and not tree.has_table(folder)


class _Top:
    """A folder at the top: how many images it holds, the names of its class folders and how deep they lie, and the
    split that its name means, with what its name says besides (`None`: nothing)."""

    def __init__(self, name: str, below: dict[Parts, int], split_names: Collection[str]):
        self.name, self.images = name, sum(below.values())
        # Classes in `seg_train/seg_train` and `train/images` lie one deeper.
        self.depth = 2 if {parts[1:2] for parts in below} in ({(name,)}, {("images",)}) else 1
        self.classes = {parts[self.depth] for parts in below if len(parts) > self.depth}
        self.use, self.rest = use_of(name) or (name if name in split_names else None), None
        if self.use is None:
            self.use, self.rest = with_affix(name) or (None, None)

    def is_split(self, tops: list["_Top"]) -> bool:
        """Whether it is a split by its name. If that says more than the split, another folder must have the same name
        but for the split, or be a split with the same classes."""
        others = [top for top in tops if top is not self and top.use]
        return self.use is not None and (
            self.rest is None
            or any((top.rest == self.rest and top.use != self.use) or top.classes & self.classes for top in others)
        )


def _splits(tops: list[_Top], root: Path, notes: list[str]) -> dict[str, int | None]:
    """How deep the class folders lie, by split folder; `None` for one without labels; nothing if these are classes."""
    likely = [top for top in tops if top.is_split(tops)]
    structured = [top for top in likely if top.classes]
    if not structured:
        if not likely or (len(likely) < len(tops) and len({top.use for top in likely}) < 2):
            return {}  # a class may happen to be called so
        raise BiasEnsembleError(
            f"{root}: expected class folders in {', '.join(f'{top.name}/' for top in likely[:_NAMED])}, found images "
            "directly in them, so their classes are not known; name a table of them with --dataset_name FILE.csv, or "
            f"take {' and '.join(top.name for top in likely[:2])} as classes with --layout folders"
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
            f"({', '.join(top.name for top in in_no_split[:_NAMED])}); {as_split}, or take "
            f"{', '.join(top.name for top in tops[:3])} as classes with --layout folders"
        )
    return {top.name: top.depth if top in structured else None for top in tops}


def _split_inside_classes(folders: list[Parts]) -> bool:
    """Whether each class folder holds split folders: `owl/train/1.png`."""
    uses = {use_of(parts[1]) if len(parts) > 1 else None for parts in folders}
    return None not in uses and len(uses) > 1 and "train" in uses


def _refuse_a_dataset_among_classes(tops: list[_Top], root: Path, place: Path) -> None:
    """Refuses a folder that is no class: it holds split folders, or all the other class folders once more."""
    for top in tops:
        others = [other.name for other in tops if other is not top]
        has_splits = {"train"} < {use_of(name) for name in top.classes} - {None}
        if has_splits or (len(others) > 1 and top.classes.issuperset(others)):
            raise BiasEnsembleError(
                f"{root}: expected class folders, found {top.name}/, which holds a whole dataset "
                f"({', '.join(sorted(top.classes)[:_NAMED])}), beside {', '.join(others[:_NAMED])}; take it with "
                f"--dataset_name {place / top.name}, or take all as classes with --layout folders"
            )


def _without_images(tree: Tree, counts: dict[Parts, int], level: int, base: Parts) -> list[str]:
    """The folders at the top and at the level of the classes without an image, with what they hold instead."""
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
