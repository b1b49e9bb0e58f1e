"""Tables as people have them, read as text first: CSV, TSV, JSON; Parquet and Arrow keep their types."""

import codecs
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from functools import reduce
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.packaged_modules.parquet.parquet import Parquet

from hf_biasensemble.data.reading.files import BINARY_TABLES, TEXT_TABLES, suffix_of
from hf_biasensemble.data.store.cache import tables_folder
from hf_biasensemble.internal.errors import BiasEnsembleError

_LINES_AT_ONCE = 10_000
_LARGEST_BLOCK = 2**31 - 1


def read_text_table(file: Path) -> tuple[pa.Table, list[str]]:
    """A table all of whose columns are text, without the blanks around its values; what is empty is null.

    Rows that are wholly empty and columns without a name are left out.

    Returns:
        The table, and what a reader should be told of it.

    Raises:
        `BiasEnsembleError`: If it is empty, is not UTF-8, has a column twice or rows of another length.
    """
    _check_regular([file])
    _check_encoding(file)
    read = _read_json(file) if suffix_of(file.name) in (".json", ".jsonl") else _read_csv(file)
    table = pa.table({name: _blank_is_null(read[name]) for name in read.column_names})
    unnamed = [name for name in table.column_names if name.startswith("\0")]
    named = [name for name in table.column_names if name not in unnamed]
    blanks = [name for name in named if pc.any(pc.not_equal(table[name], read[name])).as_py()]
    notes = []
    if blanks:
        notes.append(f"{file.name}: blanks around values are left out: column {', '.join(blanks)}")
    if any(table[name].null_count < len(table) for name in unnamed):
        notes.append(f"{file.name}: a column without a name is not read")
    table = table.select(named)
    if len(table) and named:
        filled_in = reduce(pc.or_, (column.is_valid() for column in table.columns))
        empty = len(table) - (pc.sum(filled_in).as_py() or 0)
        if empty:
            table = table.filter(filled_in)
            notes.append(f"{file.name}: {empty:,} empty row{'s are' if empty > 1 else ' is'} left out")
    if len(table) == 0:
        raise BiasEnsembleError(f"{file}: expected rows, found none below the header; fill the table in or remove it")
    return table, notes


def _check_encoding(file: Path) -> None:
    content = file.read_bytes()
    if not content:
        raise BiasEnsembleError(f"{file}: expected a table, found an empty file; remove it or fill it in")
    found = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None
    if found is None and b"\0" in content:
        found = "a zero byte, as in UTF-16"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = found or f"the byte 0x{content[error.start]:02X} in line {line}, as in Latin-1"
    if found:
        raise BiasEnsembleError(f"{file}: expected UTF-8, found {found}; save the table as CSV UTF-8")


def _read_csv(file: Path) -> pa.Table:
    with open(file, newline="", encoding="utf-8-sig") as stream:
        start = stream.readline()
        told = re.fullmatch(r"sep=(.)\s*", start)  # as Excel writes it
        skipped = 1 if told else 0
        text = stream.readline() if told else start
        while text and not text.strip():  # the names of columns may stand below blank lines
            skipped, text = skipped + 1, stream.readline()
        text += "".join(islice(stream, 20))
    delimiter = told[1] if told else _delimiter(text, file)
    header = next((row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row), [])
    names = _column_names(header, file)
    size = file.stat().st_size
    try:
        table = pyarrow.csv.read_csv(
            file,
            pyarrow.csv.ReadOptions(
                use_threads=False,
                block_size=min(max(size + 1, 1 << 20), _LARGEST_BLOCK),  # a quoted line break may be anywhere
                column_names=names,
                skip_rows=skipped,
                skip_rows_after_names=1,
            ),
            pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise BiasEnsembleError(f"{file}: {_reason(error, len(names))}") from error
    _check_last_quote(table, file)
    return table


def _check_last_quote(table: pa.Table, file: Path) -> None:
    """Refuses a quote that is never closed: all rows after it would be one value."""
    last = table.slice(max(len(table) - 1, 0)).to_pylist()
    for value in (value.encode() for row in last for value in row.values() if "\n" in value):
        with open(file, "rb") as stream:
            stream.seek(-len(value), os.SEEK_END)
            if stream.read() == value:
                raise BiasEnsembleError(
                    f"{file}, row {len(table) - 1}: expected a second quote, found the end of the table; close the "
                    "quote or remove it"
                )


def _reason(error: Exception, columns: int) -> str:
    found = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", str(error), re.DOTALL)
    if found is None:
        return " ".join(str(error).split())
    more = int(found[3]) > columns
    advice = "put quotes around values with a comma in them" if more else "fill the row up with commas"
    if columns == 1:
        advice = "the header must be the first line"
    return (
        f"expected {columns} value{'s' if columns > 1 else ''} in each row, as the header has, found {found[3]} in "
        f"line {found[1]} ({' '.join(found[4].split())[:80]}); {advice}"
    )


def _delimiter(text: str, file: Path) -> str:
    """What stands most often in the header, outside quotes."""
    if suffix_of(file.name) == ".tsv":
        return "\t"
    header = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").splitlines()[0] if text.strip() else "")
    return max(",;\t|", key=header.count) if any(sign in header for sign in ",;\t|") else ","


def _column_names(header: list[str], file: Path) -> list[str]:
    names = [name.strip() or f"\0{place}" for place, name in enumerate(header)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        places = [str(place + 1) for place, name in enumerate(names) if name == twice]
        raise BiasEnsembleError(
            f"{file}: expected each column once, found {twice!r} twice (columns {', '.join(places)}); rename one"
        )
    return names


def _blank_is_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    stripped = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(stripped, ""), pa.scalar(None, stripped.type), stripped)


def _read_json(file: Path) -> pa.Table:
    """Lines of JSON, or one list of them; every value as text."""
    chunks = [_columns_of(records) for records in _records(file)]
    table = pa.concat_tables(chunks, promote_options="default") if chunks else pa.table({})
    names = _column_names(table.column_names, file)
    return table.rename_columns(names)


def _records(file: Path) -> Iterator[list[dict]]:
    with open(file, encoding="utf-8-sig") as stream:
        if suffix_of(file.name) == ".json":
            try:
                content = json.load(stream)
            except ValueError as error:
                raise BiasEnsembleError(f"{file}: expected a list of records in JSON, found {error}") from error
            if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
                raise BiasEnsembleError(f"{file}: expected a list of records in JSON, found another content")
            yield content
            return
        number = 0
        while lines := list(islice(stream, _LINES_AT_ONCE)):
            records = []
            for line in lines:
                number += 1
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise BiasEnsembleError(f"{file}, line {number}: expected JSON, found {error}") from error
                if not isinstance(record, dict):
                    raise BiasEnsembleError(f"{file}, line {number}: expected a record, found {line.strip()[:40]}")
                records.append(record)
            yield records


def _columns_of(records: list[dict]) -> pa.Table:
    names = dict.fromkeys(name for record in records for name in record)
    return pa.table({name: pa.array([_text(record.get(name)) for record in records], pa.string()) for name in names})


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def open_binary_tables(files: list[Path], source: str) -> datasets.Dataset:
    """Parquet or Arrow files, one after another, mapped from a cache that is theirs as they are now."""
    _check_regular(files)
    builder = Parquet if suffix_of(files[0].name) == ".parquet" else Arrow
    # Paths are given as they are: `datasets` would take [ and * in them for patterns.
    content = DataFilesDict({"train": DataFilesList([str(file.resolve()) for file in files], [()] * len(files))})
    made = builder(cache_dir=str(cache_of(files, source)), data_files=content)
    made.download_and_prepare()
    return made.as_dataset(split="train")


def _check_regular(files: list[Path]) -> None:
    special = next((file for file in files if not file.is_file()), None)
    if special:
        raise BiasEnsembleError(f"{special}: expected a table, found a link to nothing or a special file; remove it")


def typed_as_text(file: Path) -> pa.Table:
    """The columns of a Parquet or Arrow file that can be text, as text: metadata of images, not images."""
    data = open_binary_tables([file], str(file.resolve()))
    content, columns = data.with_format("arrow")[:], {}
    for name, feature in data.features.items():
        if isinstance(feature, datasets.ClassLabel):
            columns[name] = pc.take(pa.array(feature.names, pa.string()), content[name])
        elif isinstance(feature, datasets.Value) and feature.dtype not in ("binary", "large_binary"):
            columns[name] = _blank_is_null(content[name].cast(pa.string()))
    return pa.table(columns)


def cache_of(files: list[Path], source: str) -> Path:
    """A cache that is these files' alone, as they are now, wherever links to them lead.

    `datasets` itself goes by the folder's base name and the configuration where a card lists configurations: it would
    give the images of another folder of that name, or those of before a change.
    """
    found = [(str(file), file.stat()) for file in files]
    # The last cannot be set: it also tells of a file whose size and time were made to be as before.
    state = [(path, now.st_size, now.st_mtime_ns, now.st_ino, now.st_ctime_ns) for path, now in found]
    digest = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    return tables_folder(digest, source)


def is_text_table(file: str) -> bool:
    """Whether a file is a table of text by its name."""
    return suffix_of(file) in TEXT_TABLES


def is_binary_table(file: str) -> bool:
    """Whether a file is a table with types by its name."""
    return suffix_of(file) in BINARY_TABLES
