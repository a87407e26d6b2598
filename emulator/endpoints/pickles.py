"""Pickled content in a model, found by what the files hold and not only by their names. Nothing is unpickled.

Loading a pickle runs whatever code it names. Where that is not wanted (`trust_pickle` never) a deployment
whose model has one is refused. What cannot be looked into counts as pickled: a doubt is a no.
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

# Bytes looked at of one file or one member of an archive, after decompression.
MOST_BYTES = 1024 * 1024
MOST_FILES = 20_000
_MOST_MEMBERS = 5_000
_MOST_OPCODES = 100_000
_DEEPEST = 4
_NAMES = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill")
# Loaders of MLflow that unpickle, whatever the file is called.
_LOADERS = frozenset({"mlflow.sklearn", "mlflow.statsmodels", "mlflow.pmdarima", "mlflow.pytorch"})
_NPY_OBJECT = re.compile(rb"'[|<>=]?O\d?'")
_LZ4 = (b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18")


def find(model: Path, flavors: Mapping[str, Any]) -> str | None:
    """Where and why a model is pickled, in words; None when nothing of it is.

    `model`: a file or folder. `flavors`: as the model's document shows them. Links are not followed.
    """
    if model.is_file():
        why = _file(model)
        return f"{model.name}: {why}" if why else None
    waiting, count = [model], 0
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            count += 1
            name = path.relative_to(model)
            if count > MOST_FILES:
                return f"the model has more than {MOST_FILES} files, too many to look into"
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                waiting.append(path)
            elif not stat.S_ISREG(mode):
                return f"{name}: no plain file, so it cannot be looked into"
            elif why := _file(path):
                return f"{name}: {why}"
    return _flavor(flavors)


def _flavor(flavors: Mapping[str, Any]) -> str | None:
    data = (flavors.get("python_function") or {}).get("data") or {}
    loader = str(data.get("loader_module"))
    if loader in _LOADERS and "skops" not in str((flavors.get("sklearn") or {}).get("data")):
        return f"MLmodel: {loader} loads the model by unpickling it"
    if loader == "mlflow.pyfunc.model" and data.get("python_model"):
        return "MLmodel: mlflow.pyfunc.model loads python_model by unpickling it"
    return None


def _file(path: Path) -> str | None:
    if path.name.lower().endswith(_NAMES):
        return "its name is that of a pickle"
    try:
        with path.open("rb") as file:
            return _stream(file, 0)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _stream(file: IO[bytes], depth: int) -> str | None:
    """Why the content counts as pickled. Raises OSError."""
    if depth > _DEEPEST:
        return "archives in archives, too deep to look into"
    head = file.read(MOST_BYTES)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip(file, depth)
    if head[257:262] == b"ustar":
        return _tar(file, depth)
    if head[:6] == b"\x93NUMPY":
        return "a NumPy file of Python objects" if _NPY_OBJECT.search(head[:65_536]) else None
    if head[:4] in _LZ4 or head[:2] == b"ZF":
        return "compressed as joblib compresses pickles"
    inner = _decompressed(head)
    if inner is not None:
        why = _stream(io.BytesIO(inner), depth + 1)
        return f"compressed, and in it {why}" if why else None
    return "a pickle" if is_pickle(head) else None


def _zip(file: IO[bytes], depth: int) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MOST_MEMBERS:
                return f"an archive of more than {_MOST_MEMBERS} files, too many to look into"
            for member in members:
                if member.filename.lower().endswith(_NAMES):
                    return f"an archive with the pickle {member.filename[:100]!r}, as torch.save writes"
                if member.is_dir():
                    continue
                with archive.open(member) as inner:
                    if why := _stream(io.BytesIO(inner.read(MOST_BYTES)), depth + 1):
                        return f"an archive with {member.filename[:100]!r}: {why}"
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, EOFError, zlib.error) as error:
        return f"an archive that cannot be looked into ({error})"
    return None


def _tar(file: IO[bytes], depth: int) -> str | None:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for number, member in enumerate(archive):
                if number >= _MOST_MEMBERS:
                    return f"an archive of more than {_MOST_MEMBERS} files, too many to look into"
                inner = archive.extractfile(member) if member.isreg() else None
                if inner is None:
                    continue
                if member.name.lower().endswith(_NAMES):
                    return f"an archive with the pickle {member.name[:100]!r}"
                if why := _stream(io.BytesIO(inner.read(MOST_BYTES)), depth + 1):
                    return f"an archive with {member.name[:100]!r}: {why}"
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as error:
        return f"an archive that cannot be looked into ({error})"
    return None


def _decompressed(head: bytes) -> bytes | None:
    """The beginning of what is compressed; None for what is not. A broken stream gives what came before."""
    try:
        if head[:2] == b"\x1f\x8b":
            return zlib.decompressobj(31).decompress(head, MOST_BYTES)
        if head[:1] == b"\x78" and len(head) > 1 and (head[0] * 256 + head[1]) % 31 == 0:
            return zlib.decompressobj().decompress(head, MOST_BYTES)
        if head[:3] == b"BZh":
            return bz2.BZ2Decompressor().decompress(head, MOST_BYTES)
        if head[:6] == b"\xfd7zXZ\x00" or head[:3] == b"\x5d\x00\x00":
            return lzma.LZMADecompressor(memlimit=128 * 1024**2).decompress(head, MOST_BYTES)
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError):
        return None
    return None


def is_pickle(head: bytes) -> bool:
    """Whether these bytes begin as a pickle does that calls for anything beyond plain values.

    Protocols 2 and later say so themselves. Older ones are followed opcode by opcode, with the depth of the
    stack, up to the first that names or calls something: a file need not end as a pickle to run its code.
    """
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= pickletools.opcodes[-1].proto + 1:
        return True
    depth, named = 0, False
    marks: list[int] = []
    try:
        for number, (opcode, _, _) in enumerate(pickletools.genops(head)):
            if number > _MOST_OPCODES:
                return True
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                named = True
            before = opcode.stack_before
            if pickletools.markobject in before:
                if not marks:
                    return False
                depth = marks.pop()
                before = before[: before.index(pickletools.markobject)]
            depth -= len(before)
            if depth < 0:
                return False
            if opcode.name == "MARK":
                marks.append(depth)
            else:
                depth += len([one for one in opcode.stack_after if one is not pickletools.markobject])
            if named and opcode.name in ("REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"):
                return True
            if opcode.name == "STOP":
                return named or number > 1
    except (ValueError, IndexError, OverflowError, UnicodeError):
        return False
    return False
