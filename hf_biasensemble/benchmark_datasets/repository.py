"""Write a dataset repository of Parquet files, a card and a contact sheet, with one config per severity. The same
calls write the same bytes."""

import argparse
import io
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from hf_biasensemble.folders.output_folder import CARD_FILE, REPOSITORY_PLACEHOLDER
from hf_biasensemble.internal.errors import BiasEnsembleError
from hf_biasensemble.internal.fonts import drawable, font_for
from hf_biasensemble.internal.mistakes import OneLineParser

ROWS_PER_GROUP = 100  # as `datasets` writes images
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
SHEET_COLUMNS = 8  # images per class in each block of the contact sheet
SHARED = "shared"  # folder of the splits that belong to all configs
Samples = dict[tuple[int, bool], list[bytes]]  # encoded images by (label, is_conflicting)


class RepositoryParser(OneLineParser):
    """Parser with the options of all dataset scripts, for the file and docstring of a script."""

    def __init__(self, script: str, documentation: str | None):
        description = (documentation or "").partition("\n")[0]
        super().__init__(prog=Path(script).name, description=description, allow_abbrev=False)
        self.add_argument("--output_dir", type=Path, required=True, help="folder to write the repository to")
        self.add_argument("--overwrite_output_dir", action="store_true", help="replace everything in output_dir")
        self.add_argument("--hub_dataset_id", metavar="REPO", help="Hub dataset to upload the finished folder to")

    def add_config_names(self, severities: Sequence[str]) -> None:
        """Adds the option for the severities to make, which are the config names, with its default."""
        text = f"configurations to make ({' '.join(severities)})"
        names = ("--dataset_config_names", "--severities")  # the second is the term of the papers
        self.add_argument(*names, dest="severities", nargs="+", default=severities, help=text)


def run_script(
    parser: RepositoryParser, build: Callable[[argparse.Namespace], Path], argv: Sequence[str] | None = None
) -> int:
    """Runs the command line of a dataset script, whose `build` writes the repository and returns the folder. Returns
    the exit status, 0 or 2; prints errors in one line."""
    try:
        options = parser.parse_args(argv)
        folder = build(options)
        if options.hub_dataset_id:
            from hf_biasensemble.folders.hub import push_folder

            hub_id = options.hub_dataset_id
            again = ["hf", "upload", hub_id, str(folder), "--repo-type", "dataset"]
            address = push_folder(folder, hub_id, repo_type="dataset", commit_message="Upload dataset", again=again)
            print(f"pushed: {address}", flush=True)
    except (BiasEnsembleError, OSError) as error:  # an OSError: disk full or no permission
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {folder}")
    return 0


def check_source_outside(source: str | Path, output_dir: Path) -> None:
    """Raises `BiasEnsembleError` if the source or the target of a link in it is in `output_dir`, which replaces it."""
    final, given = output_dir.resolve(), Path(source)
    links = (path for path in given.rglob("*") if path.is_symlink())
    for path in (given, *links):
        if path.resolve().is_relative_to(final):
            raise BiasEnsembleError(
                f"expected the source outside output_dir, found {path} in {final}; name another folder"
            )


@contextmanager
def written_aside(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """Yields an empty hidden folder that replaces `output_dir` when the block ends, so `output_dir` is always complete
    or untouched. Raises `BiasEnsembleError` if `output_dir` is in use, not a folder, contains the home or working
    folder, or, without `overwrite`, is not empty."""
    from filelock import FileLock, Timeout

    final = output_dir.resolve()
    partial, replaced, lock = (final.parent / f".{final.name}.{kind}" for kind in ("partial", "replaced", "lock"))
    if final.is_file() or any(path.is_relative_to(final) for path in (Path.home(), Path.cwd())):
        raise BiasEnsembleError(f"expected output_dir to be a folder for this dataset, found {final}; name another")
    if final.exists() and any(final.iterdir()) and not overwrite:
        raise BiasEnsembleError(
            f"expected output_dir to be new or empty, found files in {final}; "
            "name another folder, or pass --overwrite_output_dir to replace it"
        )
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                yield partial
                shutil.rmtree(replaced, ignore_errors=True)
                if final.exists():
                    final.rename(replaced)  # deleted last, so a kill loses neither folder
                partial.rename(final)
                shutil.rmtree(replaced, ignore_errors=True)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except Timeout:  # also raised if the lock file cannot be created
        if not lock.exists():
            raise BiasEnsembleError(f"could not write to {final.parent}; name a folder elsewhere") from None
        raise BiasEnsembleError(f"another process is writing {final}; wait until it has ended") from None


class DatasetRepository:
    """Writes a repository to an existing folder: call `write_split` for every split, then `write_card`. The columns
    `bias_label` and `file_name` are optional."""

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        bias_names: Sequence[str] | None = None,
        file_names: bool = False,
    ):
        import datasets

        columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(class_names))}
        if bias_names:
            columns["bias_label"] = datasets.ClassLabel(names=list(bias_names))
        columns |= {"is_conflicting": datasets.Value("bool"), "index": datasets.Value("int64")}
        if file_names:
            columns["file_name"] = datasets.Value("string")
        self.features = datasets.Features(columns)
        self.folder, self.class_names = folder, list(class_names)
        self._counts: dict[tuple[str, str], np.ndarray] = {}  # (config, split) -> images by (class, is_conflicting)
        self._sheet: tuple[int, str, Samples] = (-1, "", {})

    def write_split(
        self, split: str, images: Iterable[bytes], columns: Mapping[str, np.ndarray], config: str = SHARED
    ) -> None:
        """Writes a split of encoded images as one Parquet file and adds the column `index` (row number). `columns` has
        the other columns, (N,) with N > 0. Images are read once, so a generator keeps memory low."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        labels, conflicting = columns["label"], columns["is_conflicting"]
        counts = self._counts[config, split] = np.zeros((len(self.class_names), 2), dtype=np.int64)
        np.add.at(counts, (labels, conflicting.astype(int)), 1)
        columns = {**columns, "index": np.arange(len(labels))}
        samples: Samples = {}
        path = self.folder / config / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        rows = zip(images, labels, conflicting, strict=True)
        start, schema = 0, self.features.arrow_schema
        with pq.ParquetWriter(path, schema, write_page_index=True) as writer:
            while group := list(islice(rows, ROWS_PER_GROUP)):
                for image, label, conflict in group:
                    cell = samples.setdefault((int(label), bool(conflict)), [])
                    if len(cell) < SHEET_COLUMNS:
                        cell.append(image)
                data: dict[str, Any] = {name: some[start : start + len(group)] for name, some in columns.items()}
                data["image"] = [{"bytes": image, "path": None} for image, *_ in group]
                writer.write_table(pa.Table.from_pydict(data, schema=schema))
                start += len(group)
        total = int(conflicting.sum())
        if split == "train" and total > self._sheet[0]:  # from the config with the most
            self._sheet = (total, config, samples)
        print(f"{config}: {split}, {len(labels):,} images, {total:,} bias-conflicting", flush=True)

    def write_card(
        self, *, title: str, summary: str, making: str, command: str, tags: Sequence[str] = (), **metadata: Any
    ) -> None:
        """Writes `contact_sheet.png` and `README.md`. `making` is Markdown, `command` reproduces the repository, and
        `metadata` holds further fields of the YAML block, such as `license`."""
        from huggingface_hub import DatasetCard, DatasetCardData

        names = list(dict.fromkeys(config for config, _ in self._counts if config != SHARED))
        configs: list[dict[str, Any]] = []
        for name in names:
            splits = [(split, config) for config, split in self._counts if config in (name, SHARED)]
            files = [{"split": split, "path": f"{config}/{split}-*.parquet"} for split, config in splits]
            configs.append({"config_name": name} | ({} if configs else {"default": True}) | {"data_files": files})
        count = int(sum(counts.sum() for counts in self._counts.values()))
        metadata |= {
            "pretty_name": title,
            "task_categories": ["image-classification"],
            "size_categories": SIZES[max(len(str(count)) - 3, 0)],
            "tags": ["debiasing", "dataset-bias", "spurious-correlation", "hf_biasensemble", *tags],
            "configs": configs,
        }
        _, shown, samples = self._sheet
        contact_sheet(samples, self.class_names, f"Training images of {shown}").save(self.folder / "contact_sheet.png")
        source = ", `file_name` is the original file of the image" if "file_name" in self.features else ""
        text = f"""---
{DatasetCardData(**metadata).to_yaml()}
---

# {title}

{summary}

![Training images of {shown}: a class per row, bias-aligned left, bias-conflicting right](contact_sheet.png)

## Use

```python
from datasets import load_dataset

data = load_dataset("{REPOSITORY_PLACEHOLDER}", "{names[0]}")
```

Configs: {", ".join(f"`{name}`" for name in names)}. Columns: {", ".join(f"`{name}`" for name in self.features)};
`index` is the row number in the split{source}.
Debiasing without bias labels trains on `image` and `label`; the other columns are for evaluation only.

## Counts

Class columns: bias-aligned + bias-conflicting images.

{self._count_table()}

## How it was made

{making}

Command:

```bash
{command}
```
"""
        DatasetCard(text, ignore_metadata_errors=False).save(self.folder / CARD_FILE)

    def _count_table(self) -> str:
        header = ["config", "split", "images", "bias-aligned", "bias-conflicting", *self.class_names]
        lines = [header, ["---", "---"] + ["--:"] * (len(header) - 2)]
        for (config, split), counts in self._counts.items():
            aligned, conflicting = counts.sum(axis=0).tolist()
            total, name = aligned + conflicting, "all" if config == SHARED else config
            cells = [f"{conflicting:,} ({conflicting / total:.2%})", *(f"{a:,} + {c:,}" for a, c in counts.tolist())]
            lines.append([name, split, f"{total:,}", f"{aligned:,}", *cells])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def contact_sheet(
    samples: Samples,
    class_names: Sequence[str],
    title: str,
    captions: Sequence[str] = ("bias-aligned", "bias-conflicting"),
) -> Image.Image:
    """Draws one row per class with bias-aligned images on the left and bias-conflicting ones on the right. With a
    single caption, draws only the images under `False`, for data that doesn't distinguish the two."""
    pictures = {
        key: [ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB") for data in cell]
        for key, cell in samples.items()
    }
    small = all(max(picture.size) <= 64 for cell in pictures.values() for picture in cell)
    size, resample = (56, Image.Resampling.NEAREST) if small else (96, Image.Resampling.LANCZOS)
    step, top = size + 4, 72
    names = [drawable(" ".join(name.split())) for name in class_names]
    left = 24 + int(max(_font(name).getlength(name) for name in names))
    block = SHEET_COLUMNS * step + 20
    sheet = Image.new("RGB", (left + len(captions) * block, top + len(class_names) * step + 8), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left, 8), drawable(title), "black", _font(drawable(title)))
    for conflicting, caption in enumerate(captions):
        x = left + conflicting * block
        draw.text((x, 40), caption, "black", _font(caption))
        for row, name in enumerate(names):
            y = top + row * step
            draw.text((left - 12, y + size // 2), name, "black", _font(name), anchor="rm")
            for column, picture in enumerate(pictures.get((row, bool(conflicting)), [])):
                sheet.paste(ImageOps.fit(picture, (size, size), resample), (x + column * step, y))
    return sheet


def _font(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    found = font_for(text)
    return ImageFont.truetype(found[1], 18) if found else ImageFont.load_default(18)
