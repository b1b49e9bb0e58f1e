"""Class folders: which folders with images are splits, which are classes, and which are neither."""

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
        empty: Class folders without an image that can be read.
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
    tops = _Tops(tree, {parts[len(base) :]: count for parts, count in counts.items()}, base, split_names)
    splits = {} if take_as_classes else tops.splits(found.notes)
    inside = not splits and not take_as_classes and tops.split_inside_classes()
    if not splits and not inside and not take_as_classes:
        tops.refuse_a_dataset_among_classes()
    dropped = {top for top, depth in splits.items() if depth == 0}
    for parts in counts:
        rest = parts[len(base) :]
        if rest and rest[0] in dropped:
            continue
        depth = splits[rest[0]] if splits else 0
        if len(rest) <= depth:
            raise BiasEnsembleError(
                f"{tree.root}: expected images in one folder for each class, found "
                f"{tree.root / tree.first_image(parts)} in none; "
                "move it into the folder of its class, or elsewhere"
            )
        split = rest[0] if splits else rest[1] if inside else None
        found.place[parts] = split, rest[depth]
    if splits:
        found.splits_from = "top folders"
    elif inside:
        found.splits_from = "folders inside the classes"
    level = len(base) + (max(splits.values()) if splits else 0)
    inner = dict.fromkeys(parts[level + 1] for parts in found.place if len(parts) > level + 1 + inside)
    if inner and not inside:
        found.notes.append(f"folders inside the classes belong to them: {', '.join([*inner][:_NAMED])}")
    found.notes += _without_images(tree, counts, level, base)
    return found


def _wrapper(tree: Tree, counts: dict[Parts, int], split_names: Collection[str]) -> Parts:
    """The folder that holds everything, if that is not the top folder: archives often have one or two of these."""
    base: Parts = ()
    while base not in counts:
        depth = len(base)
        tops = {parts[depth] for parts in counts if parts[:depth] == base}
        if len(tops) != 1:
            break
        inner = (*base, *tops)
        beside = [
            folder
            for folder in tree.folders
            if len(folder) == depth + 1 and folder[:depth] == base and folder != inner and _may_be_class(tree, folder)
        ]
        if inner in counts or beside or use_of(inner[-1]) or inner[-1] in split_names:
            break
        base = inner
    return base


def _may_be_class(tree: Tree, folder: Parts) -> bool:
    """Whether a folder without images is empty, or holds photographs in another format."""
    return (
        not tree.has_table(folder) and {suffix.lower() for suffix in tree.other_files(folder)} <= PHOTOGRAPH_SUFFIXES
    )


class _Tops:
    """The folders at the top, by what lies in them."""

    def __init__(self, tree: Tree, counts: dict[Parts, int], base: Parts, split_names: Collection[str]):
        self.tree, self.base, self.counts = tree, base, counts
        self.below: dict[str, list[Parts]] = {}
        for parts in counts:
            if parts:
                self.below.setdefault(parts[0], []).append(parts)
        self.names = sorted(self.below)
        self.exact = {name: use for name in self.names if (use := use_of(name) or (name in split_names and name))}
        self.affixed = {
            name: found for name in self.names if name not in self.exact and (found := with_affix(name)) is not None
        }

    def inside(self, top: str) -> tuple[int, set[str]]:
        """How deep the class folders of a top folder lie, and their names: those in
        `seg_train/seg_train` and `train/images` lie one deeper."""
        below = self.below[top]
        depth = 2 if any(all(parts[1:2] == (inner,) for parts in below) for inner in (top, "images")) else 1
        return depth, {parts[depth] for parts in below if len(parts) > depth}

    def splits(self, notes: list[str]) -> dict[str, int]:
        """How deep the class folders lie, by split folder; 0 for one without labels; nothing if these are classes."""
        classes = {name: self.inside(name) for name in self.names}
        likely = [*self.exact, *(name for name in self.affixed if self._is_affixed_split(name, classes))]
        if not likely:
            return {}
        structured = [name for name in likely if classes[name][1]]
        others = [name for name in self.names if name not in likely]
        if not structured:
            uses = {self.exact.get(name) or self.affixed[name][0] for name in likely}
            if others and len(uses) < 2:
                return {}  # a class that happens to be called so
            raise BiasEnsembleError(
                f"{self.tree.root}: expected class folders in {self._listed(likely)}, found images directly in them, "
                "so that their classes are not known; name a table of them with --dataset_name FILE.csv, or take "
                f"{' and '.join(likely[:2])} as classes with --layout folders"
            )
        depths = {name: classes[name][0] for name in likely}
        unlabelled = [name for name in others if is_unlabelled(name) and not classes[name][1]]
        for name in likely:
            if name not in structured and (self.exact.get(name) or self.affixed[name][0]) == "test":
                unlabelled.append(name)
        for name in unlabelled:
            number = sum(self.counts[parts] for parts in self.below[name])
            notes.append(f"not read: {name}/ ({images(number)} in no class folder, so without labels)")
        in_no_split = [name for name in self.names if name not in structured and name not in unlabelled]
        if in_no_split:
            extra = in_no_split[0]
            as_split = f"use it with --test_split {extra}" if classes[extra][1] else f"move {extra} elsewhere"
            raise BiasEnsembleError(
                f"{self.tree.root}: expected split folders or class folders, found split folders "
                f"({', '.join(sorted(structured))}) beside others ({', '.join(in_no_split[:_NAMED])}); {as_split}, or "
                f"take {', '.join(self.names[:3])} as classes with --layout folders"
            )
        return {name: 0 if name in unlabelled else depths[name] for name in (*structured, *unlabelled)}

    def _is_affixed_split(self, name: str, classes: dict[str, tuple[int, set[str]]]) -> bool:
        """Whether another folder is a split of the same name but for its word, or holds the same class folders."""
        use, rest = self.affixed[name]
        for other in self.names:
            if other == name:
                continue
            if other in self.affixed and self.affixed[other][1] == rest and self.affixed[other][0] != use:
                return True
            if (other in self.affixed or other in self.exact) and classes[name][1] & classes[other][1]:
                return True
        return False

    def split_inside_classes(self) -> bool:
        """Whether each class folder holds split folders: `owl/train/1.png`."""
        if any(len(parts) < 2 for parts in self.counts):
            return False
        uses = Counter(use_of(parts[1]) for parts in self.counts)
        return None not in uses and len(uses) > 1 and "train" in uses

    def refuse_a_dataset_among_classes(self) -> None:
        """Refuses a folder that is no class: it holds split folders, or all the other class folders once more."""
        for top in self.names:
            inner = self.inside(top)[1]
            if len(inner) < 2:
                continue
            others = [name for name in self.names if name != top]
            has_splits = {"train"} < {use_of(name) for name in inner} - {None}
            if has_splits or (len(others) > 1 and inner.issuperset(others)):
                place = self.tree.root.joinpath(*self.base)
                raise BiasEnsembleError(
                    f"{self.tree.root}: expected class folders, found {top}/, which holds a whole dataset "
                    f"({', '.join(sorted(inner)[:_NAMED])}), beside {', '.join(others[:_NAMED])}; "
                    f"take it with --dataset_name {place / top}, or take all as classes with --layout folders"
                )

    def _listed(self, names: list[str]) -> str:
        return ", ".join(f"{name}/" for name in names[:_NAMED])


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
