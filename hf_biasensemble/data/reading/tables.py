"""Opens tables: CSV, TSV and JSON as text, Parquet and Arrow with their types."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.packaged_modules.parquet.parquet import Parquet

from hf_biasensemble.data.reading.files import BINARY_TABLES, TEXT_TABLES, suffix_of
from hf_biasensemble.data.store.cache import SOURCE_FILE, cache_folder
from hf_biasensemble.internal.errors import BiasEnsembleError

_ROWS_AT_ONCE = 10_000


def read_text_table(file: Path) -> tuple[pa.Table, list[str]]:
    """Reads CSV, TSV or JSON as columns of text, and returns notes on what was changed.

    Strips spaces around values; empty values become null. Omits empty rows, and columns without a name.
    """
    _check_regular([file])
    chunks = [
        pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        for columns in _blocks(_text_in(file), file)
    ]
    read = pa.concat_tables(chunks, promote_options="default") if chunks else pa.table({})
    read = read.rename_columns(_column_names(read.column_names, file))
    stripped = {name: pc.utf8_trim_whitespace(read[name]) for name in read.column_names}
    null = pa.scalar(None, pa.string())
    table = pa.table({name: pc.if_else(pc.equal(column, ""), null, column) for name, column in stripped.items()})
    unnamed = [name for name in table.column_names if name.startswith("\0")]
    named = [name for name in table.column_names if name not in unnamed]
    blanks = [name for name in named if pc.any(pc.not_equal(table[name], read[name])).as_py()]
    notes = []
    if blanks:
        notes.append(f"{file.name}: spaces around values are dropped: column {', '.join(blanks)}")
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
        raise BiasEnsembleError(f"{file}: expected rows, found none below the header; add some or remove the table")
    return table, notes


def _text_in(file: Path) -> str:
    content = file.read_bytes()
    if not content:
        raise BiasEnsembleError(f"{file}: expected a table, found an empty file; remove it or add rows")
    found = "a zero byte, as in UTF-16"
    if b"\0" not in content:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            found = f"the byte 0x{content[error.start]:02X} in line {line}, as in Latin-1"
    raise BiasEnsembleError(f"{file}: expected UTF-8, found {found}; save the table as CSV UTF-8")


def _blocks(text: str, file: Path) -> Iterator[dict[str, Sequence[str | None]]]:
    """The columns of a block of rows at a time."""
    if suffix_of(file.name) in (".json", ".jsonl"):
        records = _records(text, file)
        while some := list(islice(records, _ROWS_AT_ONCE)):
            names = dict.fromkeys(name for record in some for name in record)
            yield {name: [_as_text(record.get(name)) for record in some] for name in names}
        return
    rows = _rows(text, file)
    header = _column_names(next(rows, []), file)
    while values := list(islice(rows, _ROWS_AT_ONCE)):
        yield dict(zip(header, zip(*values, strict=True), strict=True))


def _rows(text: str, file: Path) -> Iterator[list[str]]:
    """The header and rows of CSV. The delimiter is the most frequent one in the header, or comes from Excel's first
    line `sep=;`."""
    head = re.match(r"(?:sep=(.)\s*?\r?\n)?(?:\s*[\r\n])?", text)  # also skips blank lines above the header
    assert head is not None
    body = text[head.end() :]
    first = re.sub(r'"[^"]*"', "", body.splitlines()[0] if body else "")
    usual = "\t" if suffix_of(file.name) == ".tsv" else max(",;\t|", key=first.count)
    # If not strict, an unclosed quote would swallow all rows below it.
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=head[1] or usual, strict=True)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    number, columns = -1, 0  # the header is row -1
    try:
        for row in filter(None, reader):
            columns = columns or len(row)
            if len(row) != columns:
                advice = "add the missing commas" if len(row) < columns else "quote values that contain a comma"
                if columns == 1:
                    advice = "the header must be the first line"
                line = head[0].count("\n") + reader.line_num
                raise BiasEnsembleError(
                    f"{file}: expected {columns} value{'s' if columns > 1 else ''} in each row, as in the header, "
                    f"found {len(row)} in line {line} ({' '.join(','.join(row).split())[:80]}); {advice}"
                )
            yield row
            number += 1
    except csv.Error as error:
        where = f"{file}, row {number}" if columns else f"{file}, in the header"
        raise BiasEnsembleError(
            f"{where}: expected a closing quote, found none ({error}); add it, and double quotes inside values"
        ) from error


def _column_names(header: list[str], file: Path) -> list[str]:
    names = [name.strip() or f"\0{place}" for place, name in enumerate(header)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        places = [str(place + 1) for place, name in enumerate(names) if name == twice]
        raise BiasEnsembleError(
            f"{file}: expected each column once, found {twice!r} twice (columns {', '.join(places)}); rename one"
        )
    return names


def _records(text: str, file: Path) -> Iterator[dict]:
    """The records in lines of JSON, or in one list of them."""
    if suffix_of(file.name) == ".json":
        content = _parsed(text, f"{file}: expected a list of records in JSON")
        if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
            raise BiasEnsembleError(f"{file}: expected a list of records in JSON, found something else")
        yield from content
        return
    for number, line in enumerate(io.StringIO(text), 1):
        if line.strip():
            record = _parsed(line, f"{file}, line {number}: expected JSON")
            if not isinstance(record, dict):
                raise BiasEnsembleError(f"{file}, line {number}: expected a record, found {line.strip()[:40]}")
            yield record


def _parsed(text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BiasEnsembleError(f"{expected}, found {error}") from error


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def open_tables(files: list[Path], source: str) -> tuple[datasets.Dataset, list[str]]:
    """Opens one table of text, or the parts of a Parquet or Arrow table, and returns notes on it."""
    if is_binary_table(files[0].name):
        return open_binary_tables(files, source), []
    table, notes = read_text_table(files[0])
    return datasets.Dataset(table), notes


def open_binary_tables(files: list[Path], source: str) -> datasets.Dataset:
    """Concatenates Parquet or Arrow files, memory-mapped from the cache of `cache_of`."""
    _check_regular(files)
    builder = Parquet if suffix_of(files[0].name) == ".parquet" else Arrow
    # Not given as `data_files`, where `datasets` would read [ and * in paths as patterns.
    content = DataFilesDict({"train": DataFilesList([str(file.resolve()) for file in files], [()] * len(files))})
    made = builder(cache_dir=str(cache_of(files, source)), data_files=content)
    made.download_and_prepare()
    return made.as_dataset(split="train")


def _check_regular(files: list[Path]) -> None:
    special = next((file for file in files if not file.is_file()), None)
    if special:
        raise BiasEnsembleError(f"{special}: expected a table, found a broken link or a special file; remove it")


def cache_of(files: list[Path], source: str) -> Path:
    """The cache folder of these files in their current state, created if necessary.

    `datasets` names its caches after the folder's base name and the configuration if a card lists configurations, so
    it would return the images of another folder of that name, or outdated ones.
    """
    found = [(str(file), file.stat()) for file in files]
    # ctime cannot be set, so it reveals a changed file whose size and mtime were restored.
    state = [(path, now.st_size, now.st_mtime_ns, now.st_ino, now.st_ctime_ns) for path, now in found]
    folder = cache_folder() / hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SOURCE_FILE).write_text(source, encoding="utf-8")
    return folder


def is_text_table(file: str) -> bool:
    """Whether a file has the suffix of a table of text."""
    return suffix_of(file) in TEXT_TABLES


def is_binary_table(file: str) -> bool:
    """Whether a file has the suffix of a table with types."""
    return suffix_of(file) in BINARY_TABLES
