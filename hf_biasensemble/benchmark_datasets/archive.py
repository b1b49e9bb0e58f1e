"""Unpack a zip file that is not trusted, into one temporary folder and with a size limit."""

import lzma
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from hf_biasensemble.internal.errors import BiasEnsembleError

MAX_UNPACKED_SIZE = "20GB"
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


@contextmanager
def unpacked(archive: str | Path, folder: Path, max_size: int) -> Iterator[Path]:
    """Unpacks a zip file of at most `max_size` bytes into a folder that is removed when the block ends. Checks all
    members before it writes the first byte; zipfile unpacks no more bytes than a member declares. Raises
    `BiasEnsembleError` if the archive is unreadable or too large, or a member is a link, a duplicate, encrypted or
    outside the folder."""
    try:
        source = zipfile.ZipFile(archive)
    except FileNotFoundError:
        raise BiasEnsembleError(f"expected a zip file as --archive, found no file {archive}; check the path") from None
    except (*DAMAGE, OSError, ValueError) as error:
        raise BiasEnsembleError(
            f"expected a zip file as --archive, could not read {archive} ({error}); fetch it again"
        ) from error
    with source:
        seen: set[PurePosixPath] = set()
        for member in source.infolist():
            if flaw := _flaw(member, seen):
                raise BiasEnsembleError(
                    f"expected plain files in {archive}, found {member.orig_filename!r}, which is {flaw}; "
                    "nothing was unpacked; use an archive from a source that you trust"
                )
        if sum(member.file_size for member in source.infolist()) > max_size:
            raise BiasEnsembleError(
                f"expected at most {max_size:,} bytes of unpacked files in {archive}, found more; "
                "if you trust the archive, pass a larger --max_unpacked_size"
            )
        shutil.rmtree(folder, ignore_errors=True)
        try:
            for member in source.infolist():
                member.filename = member.filename.replace("\\", "/")
                try:
                    source.extract(member, folder)
                except DAMAGE as error:
                    raise BiasEnsembleError(
                        f"expected whole files in {archive}, could not unpack {member.filename!r} ({error}); "
                        "fetch it again"
                    ) from error
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _flaw(member: zipfile.ZipInfo, seen: set[PurePosixPath]) -> str | None:
    """What makes a member unsafe, or `None`. Adds files to those seen."""
    name = member.orig_filename.replace("\\", "/")  # zipfile cuts `filename` at a null character
    path, kind = PurePosixPath(name), stat.S_IFMT(member.external_attr >> 16)
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        return "an absolute path"
    if ".." in path.parts or "\0" in name or not path.parts:
        return "a path outside the archive"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or special file"
    if member.flag_bits & 1:
        return "encrypted"
    if path in seen:
        return "a duplicate"
    if not name.endswith("/"):
        seen.add(path)
    return None
