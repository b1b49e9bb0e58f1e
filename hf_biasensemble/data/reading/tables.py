"""Tables as people have them, read as text first: CSV, TSV, JSON; Parquet and Arrow keep their types."""

import codecs
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import islice
from pathlib import Path

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
    """A table all of whose columns are text, without the blanks around its values; what is empty is null.

    Rows that are wholly empty and columns without a name are left out.

    Returns:
        The table, and what a reader should be told of it.

    Raises:
        `BiasEnsembleError`: If it is empty, is not UTF-8, has a column twice or rows of another length.
    """
    _check_regular([file])
    chunks = [
        pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        for columns in _some_rows(_text_in(file), file)
    ]
    read = pa.concat_tables(chunks, promote_options="default") if chunks else pa.table({})
    read = read.rename_columns(_column_names(read.column_names, file))
    table = pa.table({name: _blank_is_null(read[name]) for name in read.column_names})
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
        raise BiasEnsembleError(f"{file}: expected rows, found none below the header; fill the table in or remove it")
    return table, notes


def _text_in(file: Path) -> str:
    content = file.read_bytes()
    if not content:
        raise BiasEnsembleError(f"{file}: expected a table, found an empty file; remove it or fill it in")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        found = "UTF-16"
    elif b"\0" in content:
        found = "a zero byte, as in UTF-16"
    else:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            found = f"the byte 0x{content[error.start]:02X} in line {line}, as in Latin-1"
    raise BiasEnsembleError(f"{file}: expected UTF-8, found {found}; save the table as CSV UTF-8")


def _some_rows(text: str, file: Path) -> Iterator[dict[str, Sequence[str | None]]]:
    """The columns of some rows at a time."""
    if suffix_of(file.name) in (".json", ".jsonl"):
        records = _records(text, file)
        while some := list(islice(records, _ROWS_AT_ONCE)):
            names = dict.fromkeys(name for record in some for name in record)
            yield {name: [_text(record.get(name)) for record in some] for name in names}
        return
    rows = _rows(text, file)
    header = _column_names(next(rows, []), file)
    while values := list(islice(rows, _ROWS_AT_ONCE)):
        yield dict(zip(header, zip(*values, strict=True), strict=True))


def _rows(text: str, file: Path) -> Iterator[list[str]]:
    """Header and rows of CSV. Between values is what stands most often in the header, or what Excel says in a line
    `sep=;` above it."""
    head = re.match(r"(?:sep=(.)\s*?\r?\n)?(?:\s*[\r\n])?", text)  # blank lines may stand above the header
    assert head is not None
    body = text[head.end() :]
    first = re.sub(r'"[^"]*"', "", body.splitlines()[0] if body else "")
    usual = "\t" if suffix_of(file.name) == ".tsv" else max(",;\t|", key=first.count)
    # Strict, or all rows after a quote that is never closed would be one value.
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=head[1] or usual, strict=True)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    number, columns = -1, 0  # the header is no row
    try:
        for row in filter(None, reader):
            columns = columns or len(row)
            if len(row) != columns:
                advice = "put quotes around values with a comma in them"
                if len(row) < columns:
                    advice = "fill the row up with commas"
                if columns == 1:
                    advice = "the header must be the first line"
                line = head[0].count("\n") + reader.line_num
                raise BiasEnsembleError(
                    f"{file}: expected {columns} value{'s' if columns > 1 else ''} in each row, as the header has, "
                    f"found {len(row)} in line {line} ({' '.join(','.join(row).split())[:80]}); {advice}"
                )
            yield row
            number += 1
    except csv.Error as error:
        where = f"{file}, row {number}" if columns else f"{file}, in the header"
        raise BiasEnsembleError(
            f"{where}: expected a closing quote, found none ({error}); close the quote or "
            "remove it, and double quotes inside a value"
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


def _blank_is_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    stripped = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(stripped, ""), pa.scalar(None, stripped.type), stripped)


def _records(text: str, file: Path) -> Iterator[dict]:
    """Lines of JSON, or one list of them."""
    if suffix_of(file.name) == ".json":
        try:
            content = json.loads(text)
        except ValueError as error:
            raise BiasEnsembleError(f"{file}: expected a list of records in JSON, found {error}") from error
        if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
            raise BiasEnsembleError(f"{file}: expected a list of records in JSON, found another content")
        yield from content
        return
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise BiasEnsembleError(f"{file}, line {number}: expected JSON, found {error}") from error
        if not isinstance(record, dict):
            raise BiasEnsembleError(f"{file}, line {number}: expected a record, found {line.strip()[:40]}")
        yield record


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def open_tables(files: list[Path], source: str) -> tuple[datasets.Dataset, list[str]]:
    """The rows of one table of text, or of Parquet or Arrow files one after another, and what to say of them."""
    if is_binary_table(files[0].name):
        return open_binary_tables(files, source), []
    (file,) = files
    table, notes = read_text_table(file)
    return datasets.Dataset(table), notes


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
        raise BiasEnsembleError(f"{special}: expected a table, found a broken link or a special file; remove it")


def cache_of(files: list[Path], source: str) -> Path:
    """A cache that is these files' alone, as they are now, wherever links to them lead.

    `datasets` itself goes by the folder's base name and the configuration where a card lists configurations: it would
    give the images of another folder of that name, or those of before a change.
    """
    found = [(str(file), file.stat()) for file in files]
    # The last cannot be set: it also tells of a file whose size and time were made to be as before.
    state = [(path, now.st_size, now.st_mtime_ns, now.st_ino, now.st_ctime_ns) for path, now in found]
    folder = cache_folder() / hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SOURCE_FILE).write_text(source, encoding="utf-8")
    return folder


def is_text_table(file: str) -> bool:
    """Whether a file is a table of text by its name."""
    return suffix_of(file) in TEXT_TABLES


def is_binary_table(file: str) -> bool:
    """Whether a file is a table with types by its name."""
    return suffix_of(file) in BINARY_TABLES
