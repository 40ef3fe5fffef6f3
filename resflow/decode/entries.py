"""The kernels by plain pointers, and how they are compiled to code that runs without numba; see `native`.

Pointers are to contiguous arrays, whose types and sizes `native` has checked.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from numba import carray, cfunc
from numba.core.runtime.nrtdynmod import _meminfo_struct_type
from numba.types import CPointer, float64, int64, uint8

from resflow.decode import kernels
from resflow.decode.jpeg import window

_BYTES, _INTS, _FLOATS = CPointer(uint8), CPointer(int64), CPointer(float64)


@cfunc(int64(_BYTES, int64, _BYTES, int64, int64, _INTS, *[float64] * 4, int64, int64, int64, float64))
def decode_window(
    data, size, out, rows, columns, box, start_x, start_y, step_x, step_y, width, height, orientation, oversample
):
    """See `jpeg.window.decode_window`."""
    file, target, shown = carray(data, size), carray(out, (rows, columns, 3)), carray(box, 4)
    return window.decode_window(
        file, target, shown, start_x, start_y, step_x, step_y, width, height, orientation, oversample
    )


@cfunc(int64(_BYTES, int64, int64, _BYTES, int64, int64, _INTS, *[float64] * 4, _BYTES))
def resize(source, height, width, out, rows, columns, box, start_x, start_y, step_x, step_y, fill):
    """See `kernels.resize`."""
    pixels, target = carray(source, (height, width, 3)), carray(out, (rows, columns, 3))
    kernels.resize(pixels, target, carray(box, 4), start_x, start_y, step_x, step_y, carray(fill, 3))
    return 1


@cfunc(int64(_BYTES, int64, int64, _BYTES, int64, int64, _FLOATS, float64, float64, _FLOATS, _INTS, _BYTES))
def warp(source, height, width, out, rows, columns, inverse, source_width, source_height, scale, origin, fill):
    """See `kernels.warp`."""
    pixels, target = carray(source, (height, width, 3)), carray(out, (rows, columns, 3))
    turn, by, shift = carray(inverse, (3, 3)), carray(scale, 2), carray(origin, 2)
    kernels.warp(pixels, target, turn, source_width, source_height, by, shift, carray(fill, 3))
    return 1


@cfunc(int64(_BYTES, int64, int64, _INTS, _BYTES))
def fill_outside(out, rows, columns, box, fill):
    """See `kernels.fill_outside`."""
    kernels.fill_outside(carray(out, (rows, columns, 3)), carray(box, 4), carray(fill, 3))
    return 1


ENTRIES = {"decode_window": decode_window, "resize": resize, "warp": warp, "fill_outside": fill_outside}

# What compiled code asks of numba's runtime: memory of an array, which starts with a count of its owners, the data's
# place and size; and the strides of a contiguous array in another shape.
_RUNTIME = """
declare ptr @malloc(i64)
declare void @free(ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define ptr @NRT_MemInfo_alloc_aligned(i64 %size, i32 %0) {
  %more = add i64 %size, 112
  %memory = call ptr @malloc(i64 %more)
  %none = icmp eq ptr %memory, null
  br i1 %none, label %end, label %fill
fill:
  call void @llvm.memset.p0.i64(ptr %memory, i8 0, i64 48, i1 false)
  store i64 1, ptr %memory
  %start = ptrtoint ptr %memory to i64
  %behind = add i64 %start, 111
  %aligned = and i64 %behind, -64
  %data = inttoptr i64 %aligned to ptr
  %place = getelementptr i8, ptr %memory, i64 24
  store ptr %data, ptr %place
  %length = getelementptr i8, ptr %memory, i64 32
  store i64 %size, ptr %length
  br label %end
end:
  ret ptr %memory
}

define void @NRT_MemInfo_call_dtor(ptr %memory) {
  call void @free(ptr %memory)
  ret void
}

define void @NRT_Free(ptr %memory) {
  call void @free(ptr %memory)
  ret void
}

define i32 @numba_attempt_nocopy_reshape(
  i64 %0, ptr %1, ptr %2, i64 %count, ptr %sizes, ptr %strides, i64 %item, i32 %3
) {
entry:
  br label %next
next:
  %i = phi i64 [ %count, %entry ], [ %j, %fill ]
  %stride = phi i64 [ %item, %entry ], [ %larger, %fill ]
  %more = icmp sgt i64 %i, 0
  br i1 %more, label %fill, label %end
fill:
  %j = sub i64 %i, 1
  %to = getelementptr i64, ptr %strides, i64 %j
  store i64 %stride, ptr %to
  %from = getelementptr i64, ptr %sizes, i64 %j
  %size = load i64, ptr %from
  %larger = mul i64 %stride, %size
  br label %next
end:
  ret i32 1
}

"""
# What only the raising of Python's exceptions asks of it, in wrappers that nobody calls.
_RAISING = {
    f"numba_{name}" for name in ("gil_ensure", "gil_release", "unpickle", "do_raise", "runtime_build_excinfo_struct")
}
_ABORT = "declare void @abort()"
_NEVER = "define void @{name}() {{ call void @abort() unreachable }}"


def compile_entries(machine: llvm.TargetMachine) -> bytes:
    """Compile all entries, as functions `resflow_NAME` that need nothing of numba.

    Such a function takes pointers to its result and to a reason, then its arguments, and returns 0, or else ran out of
    memory.

    Args:
        machine: llvmlite's TargetMachine.

    Returns:
        ELF object code.

    Raises:
        RuntimeError: numba is of a version whose code needs more.
    """
    if [str(field) for field in _meminfo_struct_type.elements] != ["i64", "i8*", "i8*", "i8*", "i64"]:
        raise RuntimeError("numba's layout of arrays has changed; install the version that constraints.txt names")
    whole = llvm.parse_assembly(_RUNTIME)
    for name, entry in ENTRIES.items():
        module = llvm.parse_assembly(entry.inspect_llvm())
        module.get_function(entry.native_name.removeprefix("cfunc.")).name = f"resflow_{name}"
        whole.link_in(module)
    missing = {one.name for one in whole.functions if one.is_declaration and one.name.startswith(("numba_", "NRT_"))}
    if missing - _RAISING:
        raise RuntimeError(
            f"numba's code asks for {sorted(missing - _RAISING)}; install the version that constraints.txt names"
        )
    whole.link_in(llvm.parse_assembly("\n".join([_ABORT, *(_NEVER.format(name=name) for name in sorted(missing))])))
    whole.verify()
    code: bytes = machine.emit_object(whole)
    return code
