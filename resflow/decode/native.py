"""The compiled kernels without their compiler: compiled once on a machine, kept as object code, loaded in milliseconds.

numba takes half a second and 45 MB to start in each process, which a loader's first batch would wait for and each
worker would hold. So it is imported to compile alone (some 20 s, once): the object code is kept in a file, and
LLVM's loader, which numba brings with it, links that into the process. All processes run the same machine code, too.

The file lies beside this module's byte code where that can be written, else in the user's cache folder. Its name
depends on the sources, the versions of Python's packages and the processor; a file that is damaged, or that somebody
else could have written, is compiled anew.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import byref, c_double, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any, cast

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_UINT8, _INT64, _FLOAT64 = np.dtype(np.uint8), np.dtype(np.int64), np.dtype(np.float64)
_Nothing = ctypes.c_char * 0
_HERE = Path(__file__).parent
_P, _I, _D = c_void_p, c_int64, c_double
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "decode_window": (_P, _I, _P, _I, _I, _P, _D, _D, _D, _D, _I, _I, _I, _D),
    "resize": (_P, _I, _I, _P, _I, _I, _P, _D, _D, _D, _D, _P),
    "warp": (_P, _I, _I, _P, _I, _I, _P, _D, _D, _P, _P, _P),
    "fill_outside": (_P, _I, _I, _P, _P),
}
_DIGEST = hashlib.sha256().digest_size


def decode_window(
    data: Bytes,
    out: Bytes,
    box: Ints,
    start_x: float,
    start_y: float,
    step_x: float,
    step_y: float,
    width: int,
    height: int,
    orientation: int,
    oversample: float,
) -> bool:
    """See `resflow.decode.jpeg.window.decode_window`."""
    file, target, shown = (
        _address(data, _UINT8, -1),
        _address(out, _UINT8, -1, -1, 3),
        _address(box, _INT64, 4),
    )
    rows, columns, _ = out.shape
    where = start_x, start_y, step_x, step_y
    return (
        _call(
            "decode_window",
            file,
            data.size,
            target,
            rows,
            columns,
            shown,
            *where,
            width,
            height,
            orientation,
            oversample,
        )
        == 1
    )


def resize(
    source: Bytes, out: Bytes, box: Ints, start_x: float, start_y: float, step_x: float, step_y: float, fill: Bytes
) -> None:
    """See `resflow.decode.kernels.resize`."""
    pixels, target = _address(source, _UINT8, -1, -1, 3), _address(out, _UINT8, -1, -1, 3)
    shown, colour = _address(box, _INT64, 4), _address(fill, _UINT8, 3)
    _call("resize", pixels, *source.shape[:2], target, *out.shape[:2], shown, start_x, start_y, step_x, step_y, colour)


def warp(
    source: Bytes, out: Bytes, inverse: Floats, width: float, height: float, scale: Floats, origin: Ints, fill: Bytes
) -> None:
    """See `resflow.decode.kernels.warp`."""
    pixels, target = _address(source, _UINT8, -1, -1, 3), _address(out, _UINT8, -1, -1, 3)
    turn, by, shift = (
        _address(inverse, _FLOAT64, 3, 3),
        _address(scale, _FLOAT64, 2),
        _address(origin, _INT64, 2),
    )
    colour = _address(fill, _UINT8, 3)
    _call("warp", pixels, *source.shape[:2], target, *out.shape[:2], turn, width, height, by, shift, colour)


def fill_outside(out: Bytes, box: Ints, fill: Bytes) -> None:
    """See `resflow.decode.kernels.fill_outside`."""
    target, shown = _address(out, _UINT8, -1, -1, 3), _address(box, _INT64, 4)
    _call("fill_outside", target, *out.shape[:2], shown, _address(fill, _UINT8, 3))


def _address(array: npt.NDArray[Any], dtype: np.dtype[Any], *shape: int) -> int:
    """Where a contiguous array of a type and shape (-1: any size) lies; compiled code does not look again."""
    got = array.shape
    if array.dtype != dtype or not array.flags.c_contiguous or len(got) != len(shape) or shape[-1] not in (-1, got[-1]):
        wanted = ", ".join("any" if size < 0 else str(size) for size in shape)
        raise TypeError(
            f"compiled kernels need a contiguous {dtype} array [{wanted}]; got {array.dtype} "
            f"{list(got)}{'' if array.flags.c_contiguous else ', not contiguous'}"
        )
    if array.flags.writeable:
        return ctypes.addressof(_Nothing.from_buffer(cast(Any, array)))
    address: int = array.__array_interface__["data"][0]  # takes four times as long
    return address


_reason = byref(c_void_p())  # numba's word for an error, which nobody reads: there is but one


def _call(name: str, *arguments: Any) -> int:
    """What an entry returns; the interpreter lock is let go meanwhile."""
    result = c_int64()
    if (_entries or load())[name](byref(result), _reason, *arguments):
        raise MemoryError(f"there is not enough memory to decode an image (in {name})")
    return result.value


_entries: dict[str, Any] = {}
_owners: list[Any] = []  # of the code's memory
_lock = threading.Lock()
_log = logging.getLogger("resflow")


def load() -> dict[str, Any]:
    """The entries by name, which forked processes inherit; compiled where they never were, by whoever asks first."""
    with _lock:
        if not _entries:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            linker = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
            linker.add_object_file(llvm.ObjectFileRef.from_data(object_code()))
            linker.finalize_object()
            _owners.append(linker)
            _entries.update(
                {
                    name: ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, *arguments)(
                        linker.get_function_address(f"resflow_{name}")
                    )
                    for name, arguments in _ARGUMENTS.items()
                }
            )
    return _entries


def _machine() -> llvm.TargetMachine:
    """LLVM's code generator for this processor, as numba sets it up."""
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(llvm.get_host_cpu_name(), features, opt=3, codemodel="jitdefault", jit=True)


def object_code(folder: Path | None = None) -> bytes:
    """The kernels' object code (ELF) for this machine: from its file, or compiled and put there.

    Args:
        folder: where the file lies; None: beside this module's byte code or in the user's cache folder.
    """
    folder = folder or _folder()
    path = folder / f"kernels-{_key()}.o"
    found = _kept(path)
    if found is not None:
        return found
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(path.with_suffix(".lock")):
        found = _kept(path)  # by another process, meanwhile
        if found is None:
            from resflow.decode.entries import compile_entries

            _log.warning("compiling the image decoder for this processor, once: some 20 seconds. Kept in %s.", folder)
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            found = compile_entries(_machine())
            _keep(path, found)
    return found


def _folder() -> Path:
    beside = _HERE / "__pycache__"
    if os.access(beside if beside.exists() else _HERE, os.W_OK):
        return beside
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "resflow"


def _key() -> str:
    """Of all that the code depends on."""
    sources = [
        *(_HERE / f"{name}.py" for name in ("native", "entries", "kernels")),
        *sorted((_HERE / "jpeg").glob("*.py")),
    ]
    parts = [path.read_bytes() for path in sources]
    parts += [importlib.metadata.version(name).encode() for name in ("numba", "llvmlite", "numpy")]
    parts += [llvm.get_host_cpu_name().encode(), llvm.get_host_cpu_features().flatten().encode()]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:20]


def _kept(path: Path) -> bytes | None:
    """The object code in a file: whole, and written by nobody else."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            content = file.read()
    except OSError:
        return None
    if state.st_uid not in (0, os.getuid()) or state.st_mode & 0o022:
        return None
    code = content[_DIGEST:]
    return code if hashlib.sha256(code).digest() == content[:_DIGEST] else None


def _keep(path: Path, code: bytes) -> None:
    """Write it; where that cannot be, the next process compiles again."""
    with suppress(OSError):
        number, part = tempfile.mkstemp(dir=path.parent)  # of this user alone
        try:
            with os.fdopen(number, "wb") as file:
                file.write(hashlib.sha256(code).digest() + code)
            Path(part).replace(path)
        except OSError:
            Path(part).unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time, so that one compiles and others wait for it; where files can be locked."""
    try:
        file = path.open("wb")
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
