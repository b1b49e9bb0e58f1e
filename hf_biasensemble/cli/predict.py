"""Label your own images: `hf-biasensemble predict --model OUT FILES_OR_FOLDERS...`.

With `--feature_column`, labels vectors in tables (Parquet, Arrow) or folders written by `save_to_disk`.

Exit status: 0 if all images were read, 1 if some were not, 2 if none was or after an error.
"""

import csv
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from hf_biasensemble.arguments import InferenceArguments
from hf_biasensemble.arguments.parser import StrictParser
from hf_biasensemble.internal.errors import BiasEnsembleError, require
from hf_biasensemble.internal.files import without_formula, written_whole


def main(argv: list[str]) -> int:
    """Prints predictions as CSV or writes them to a file, and lists unreadable images."""
    usage = "hf-biasensemble predict --model MODEL FILE_OR_FOLDER [FILE_OR_FOLDER ...] [--OPTION VALUE ...]"
    parser = StrictParser([InferenceArguments], "predict", usage=usage, description=__doc__)
    parser.set_defaults(batch_size=64)
    parser.add_argument("--model", required=True, help="Folder or Hub id of a saved classifier.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help="Images, or folders of images.")
    parser.add_argument("--feature_column", help="Column of vectors; the paths are tables, or folders with them.")
    parser.add_argument("--output_file", type=Path, help="file.csv or file.jsonl; by default CSV to standard output.")
    parser.add_argument("--top_k", type=int, default=1, help="Number of most probable classes to list.")
    options = parser.parse_args(argv)
    inference = InferenceArguments(options.batch_size, options.use_cpu, options.bf16, options.fp16)
    require(options.top_k >= 1, "--top_k", "at least 1", options.top_k)
    output_file: Path | None = options.output_file
    known = output_file is None or output_file.suffix in (".csv", ".jsonl")
    require(known, "--output_file", "a name that ends in .csv or .jsonl", output_file)
    unread: dict[Path, str] = {}
    if options.feature_column:
        files, what = options.paths, "tables"
        rows = predictions_of_vectors(options.model, files, options.feature_column, inference, options.top_k)
    else:
        files, what = list_images(options.paths), "images"
        rows = predictions(options.model, files, inference, options.top_k, unread)
    first = next(rows, None)
    if first is None:
        described = "; ".join(f"{file} ({reason})" for file, reason in list(unread.items())[:10])
        raise BiasEnsembleError(f"expected images, found none of {len(unread)} that can be read: {described}")
    with ExitStack() as stack:
        stream = sys.stdout
        if output_file:
            unfinished = stack.enter_context(written_whole(output_file))
            stream = stack.enter_context(open(unfinished, "w", encoding="utf-8", newline=""))
        everything = itertools.chain([first], rows)
        if output_file and output_file.suffix == ".jsonl":
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in everything)
        else:
            writer = csv.DictWriter(stream, first, lineterminator="\n")
            writer.writeheader()
            for row in everything:
                writer.writerow({name: without_formula(it) if isinstance(it, str) else it for name, it in row.items()})
    for file in files:
        if file in unread:
            print(f"not read: {file} ({unread[file]})", file=sys.stderr)
    print(f"{len(files) - len(unread)} of {len(files)} {what} read", file=sys.stderr)
    return 1 if unread else 0


def list_images(paths: list[Path]) -> list[Path]:
    """The files among the paths, whatever their names, and the image files in the folders, each once and in order.
    Refuses folders without images."""
    from hf_biasensemble.data.reading.files import image_files

    files: list[Path] = []
    for path in paths:
        inside = list(map(Path, image_files(path))) if path.is_dir() else [path]
        if not inside:
            raise BiasEnsembleError(f"expected image files in the folder {path}, found none")
        files += inside
    return list(dict.fromkeys(files))


def predictions(
    model_name: str, files: list[Path], inference: InferenceArguments, top_k: int, unread: dict[Path, str]
) -> Iterator[dict[str, str | float]]:
    """Yields one row per readable file: `file`, `label`, `probability`, then `label_2`, `probability_2`, ... up to
    `top_k`. Adds unreadable files to `unread`, with the reason."""
    from hf_biasensemble.evaluation.ranking import ranked_classes
    from hf_biasensemble.models.export import load_classifier

    records = [{"path": file} for file in files]
    for file, ranked in zip(
        files, ranked_classes(load_classifier(model_name), records, inference, top_k), strict=True
    ):
        if isinstance(ranked, str):
            unread[file] = ranked
            continue
        yield {"file": str(file), **_columns(ranked)}


def predictions_of_vectors(
    model_name: str, tables: list[Path], column: str, inference: InferenceArguments, top_k: int
) -> Iterator[dict[str, str | float]]:
    """Yields one row per vector: `file`, `split`, `row`, then the columns of [`predictions`]."""
    import torch

    from hf_biasensemble.data.pixels import ImageSplit
    from hf_biasensemble.data.store.features import Features
    from hf_biasensemble.data.vectors import vectors_in
    from hf_biasensemble.evaluation.classifier import check_input, predict_logits
    from hf_biasensemble.evaluation.ranking import ranked_in
    from hf_biasensemble.models.export import load_classifier

    model, transform, _ = load_classifier(model_name, of_vectors=True)
    inference.placed(model)
    for table in tables:
        for split, found in vectors_in(table, column):
            vectors = torch.from_numpy(found)
            every = torch.arange(len(vectors))
            shown = ImageSplit(Features.of_vectors(vectors), labels=every, class_names=[], rows=every)
            check_input(shown, transform)
            with torch.inference_mode():
                logits = predict_logits(model, shown, transform, inference.batch_size)
            for row, ranked in enumerate(ranked_in(logits, model.config.id2label, top_k)):
                yield {"file": str(table), "split": split, "row": row, **_columns(ranked)}


def _columns(ranked: list[tuple[str, float]]) -> dict[str, str | float]:
    row: dict[str, str | float] = {}
    for rank, (label, probability) in enumerate(ranked, start=1):
        suffix = f"_{rank}" if rank > 1 else ""
        row[f"label{suffix}"], row[f"probability{suffix}"] = label, probability
    return row
