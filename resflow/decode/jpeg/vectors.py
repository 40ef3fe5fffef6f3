"""Vectors of 16 numbers in compiled code, so that its speed does not hang on what a compiler makes of a loop.

LLVM cuts them into what the processor has: one register of AVX-512, two of AVX2, four of NEON. Results are the same on
all of them: `fma` rounds once, everywhere, and the compiler fuses nothing else.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
_FLOAT, _INT32, _BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8)
_BYTES = ir.VectorType(_BYTE, LANES)
_FLOATS = ir.VectorType(_FLOAT, LANES)
_INTS = ir.VectorType(_INT32, LANES)


class _Vector(types.Type):  # type: ignore[misc]
    """float32 [16] in registers."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: _Vector) -> None:
        super().__init__(manager, kind, _FLOATS)


vector = _Vector()


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any, what: ir.Type) -> Any:
    """A pointer to neighbours in a flat array, as one to `what`; checked where numba's other accesses are."""
    found = context.make_array(kind)(context, builder, array)
    if context.enable_boundscheck:
        last = builder.add(at, ir.Constant(at.type, LANES - 1))
        cgutils.do_boundscheck(context, builder, last, builder.extract_value(found.shape, 0))
    return builder.bitcast(builder.gep(found.data, [at]), what.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, [0] * LANES))


@intrinsic
def zeros(typing: Any) -> Any:
    """Sixteen zeros."""
    return vector(), lambda context, builder, signature, arguments: ir.Constant(_FLOATS, [0.0] * LANES)


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """Sixteen times a float32."""
    return vector(types.float32), lambda context, builder, signature, arguments: _splat(builder, arguments[0])


@intrinsic
def load(typing: Any, array: Any, at: Any) -> Any:
    """Sixteen neighbours from a flat array of float32, int16 or uint8, as float32."""
    kind = array.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        stored = ir.VectorType(context.get_data_type(kind), LANES)
        place = _place(context, builder, signature.args[0], *arguments, stored)
        values = builder.load(place, align=kind.bitwidth // 8)
        if kind == types.float32:
            return values
        return (builder.sitofp if kind.signed else builder.uitofp)(values, _FLOATS)

    return vector(array, types.uintp), generate


@intrinsic
def store(typing: Any, array: Any, at: Any, values: Any) -> Any:
    """Put sixteen values into a flat float32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args[0], *arguments[:2], _FLOATS)
        builder.store(arguments[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.uintp, vector), generate


@intrinsic
def fma(typing: Any, one: Any, other: Any, plus: Any) -> Any:
    """The product of two, and a third added, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32"), arguments)

    return vector(vector, vector, vector), generate
