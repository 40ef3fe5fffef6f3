"""Vectors of 16 numbers in compiled code, so that its speed does not hang on what a compiler makes of a loop.

LLVM cuts them into what the processor has: one register of AVX-512, two of AVX2, four of NEON. Results are the same on
all of them: `fma` rounds once, everywhere, and the compiler fuses nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
WIDE = 32
"""Bytes that `copy_plain` copies at most."""

_FLOAT, _INT32, _BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8)
_FLOATS = ir.VectorType(_FLOAT, LANES)


class _Vector(types.Type):  # type: ignore[misc]
    """float32 [16] in registers."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: _Vector) -> None:
        super().__init__(manager, kind, _FLOATS)


vector = _Vector()
Generate = Callable[..., Any]


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any, what: ir.VectorType) -> Any:
    """A pointer to neighbours in a flat array, as one to `what`; checked where numba's other accesses are."""
    found = context.make_array(kind)(context, builder, array)
    if context.enable_boundscheck:
        last = builder.add(at, ir.Constant(at.type, what.count - 1))
        cgutils.do_boundscheck(context, builder, last, builder.extract_value(found.shape, 0))
    return builder.bitcast(builder.gep(found.data, [at]), what.as_pointer())


def _shuffled(builder: Any, one: Any, other: Any, order: Sequence[int]) -> Any:
    """Elements of two vectors, numbered on from the first to the second."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT32, len(order)), list(order)))


def _splat(builder: Any, value: Any, count: int = LANES) -> Any:
    none = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    return _shuffled(builder, builder.insert_element(none, value, ir.Constant(_INT32, 0)), none, [0] * count)


def _loaded(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Sixteen neighbours as float32."""
    element = kind.dtype
    stored = ir.VectorType(context.get_data_type(element), LANES)
    values = builder.load(_place(context, builder, kind, array, at, stored), align=element.bitwidth // 8)
    if element == types.float32:
        return values
    return (builder.sitofp if element.signed else builder.uitofp)(values, _FLOATS)


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

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _loaded(context, builder, signature.args[0], *arguments)

    return vector(array, types.uintp), generate


@intrinsic
def store(typing: Any, array: Any, at: Any, values: Any) -> Any:
    """Put sixteen values into a flat float32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found, at, part = arguments
        builder.store(part, _place(context, builder, signature.args[0], found, at, _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(array, types.uintp, vector), generate


@intrinsic
def fma(typing: Any, one: Any, other: Any, plus: Any) -> Any:
    """The product of two, and a third added, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32"), arguments)

    return vector(vector, vector, vector), generate


def _operation(name: str) -> Any:
    @intrinsic
    def operation(typing: Any, one: Any, other: Any) -> Any:
        return vector(vector, vector), lambda context, builder, signature, arguments: getattr(builder, name)(*arguments)

    return operation


def _register(symbol: Any, name: str) -> None:
    """Have compiled code understand an operator between two vectors, and between a vector and a float32."""
    operation = _operation(name)

    @overload(symbol)
    def chosen(one: Any, other: Any) -> Any:
        def of_vectors(one: Any, other: Any) -> Any:
            return operation(one, other)

        def with_number(one: Any, other: Any) -> Any:
            return operation(one, splat(other))

        if one != vector:
            return None
        return of_vectors if other == vector else with_number if other == types.float32 else None


_register(operator.add, "fadd")
_register(operator.sub, "fsub")
_register(operator.mul, "fmul")


def _apart(builder: Any, at: Any, count: int, step: int) -> list[Any]:
    """Places, `step` elements apart."""
    return [builder.add(at, ir.Constant(at.type, k * step)) for k in range(count)]


def loads(count: int, step: int) -> Any:
    """A compiled function (array, at) -> `count` vectors, `step` elements apart."""

    @intrinsic
    def several(typing: Any, array: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind, (found, first) = signature.args[0], arguments
            values = [_loaded(context, builder, kind, found, place) for place in _apart(builder, first, count, step)]
            return context.make_tuple(builder, signature.return_type, values)

        return types.UniTuple(vector, count)(array, types.uintp), generate

    return several


def stores(count: int, step: int) -> Any:
    """A compiled function (array, at, vectors) that puts them `step` elements apart into a flat float32 array."""

    @intrinsic
    def several(typing: Any, array: Any, at: Any, values: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            found, first, parts = arguments
            places = _apart(builder, first, count, step)
            for place, part in zip(places, cgutils.unpack_tuple(builder, parts), strict=True):
                pointer = _place(context, builder, signature.args[0], found, place, _FLOATS)
                builder.store(part, pointer, align=4)
            return context.get_dummy_value()

        return types.void(array, types.uintp, types.UniTuple(vector, count)), generate

    return several


def products(count: int, step: int, factor_step: int) -> Any:
    """A compiled function (array, at, factors, factor) -> as `loads`, each times a float32, `factor_step` apart."""

    @intrinsic
    def multiplied(typing: Any, array: Any, at: Any, factors: Any, factor: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            found, first, factors, factor = arguments
            kind, factor_kind = signature.args[0], signature.args[2]
            values = []
            for place, of in zip(
                _apart(builder, first, count, step), _apart(builder, factor, count, factor_step), strict=True
            ):
                pointer = _place(context, builder, factor_kind, factors, of, ir.VectorType(_FLOAT, 1))
                by = _splat(builder, builder.load(builder.bitcast(pointer, _FLOAT.as_pointer())))
                values.append(builder.fmul(_loaded(context, builder, kind, found, place), by))
            return context.make_tuple(builder, signature.return_type, values)

        return types.UniTuple(vector, count)(array, types.uintp, factors, types.uintp), generate

    return multiplied


@intrinsic
def store_pixels(typing: Any, array: Any, at: Any, values: Any) -> Any:
    """Put several vectors of values about 0 into a flat uint8 array: the first of each, the second of each..."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found, at, several = arguments
        whole = _zipped(builder, [_bytes(builder, part) for part in cgutils.unpack_tuple(builder, several)])
        place = _place(context, builder, signature.args[0], found, at, whole.type)
        builder.store(whole, place, align=1)
        return context.get_dummy_value()

    return types.void(array, types.uintp, values), generate


def _bytes(builder: Any, values: Any) -> Any:
    """The nearest bytes to values about 0."""
    values = builder.fadd(values, ir.Constant(_FLOATS, [128.5] * LANES))
    for comparison, limit in (("<", 0.0), (">", 255.0)):
        bound = ir.Constant(_FLOATS, [limit] * LANES)
        values = builder.select(builder.fcmp_ordered(comparison, values, bound), bound, values)
    return builder.trunc(builder.fptosi(values, ir.VectorType(_INT32, LANES)), ir.VectorType(_BYTE, LANES))


def _zipped(builder: Any, parts: list[Any]) -> Any:
    """The first of each vector, then the second of each, and so on, as one vector."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) % 2 == 0:
        one, other = _zipped(builder, parts[::2]), _zipped(builder, parts[1::2])
        count = one.type.count
        return _shuffled(builder, one, other, [k // 2 + k % 2 * count for k in range(2 * count)])
    count = LANES * len(parts)
    whole = parts[0]
    for k, part in enumerate(parts[1:], 1):
        none = ir.Constant(part.type, ir.Undefined)
        wide = _shuffled(builder, part, none, [j % LANES for j in range(LANES * k)])
        whole = _shuffled(builder, whole, wide, range(LANES * (k + 1)))
    none = ir.Constant(whole.type, ir.Undefined)
    return _shuffled(builder, whole, none, [j % len(parts) * LANES + j // len(parts) for j in range(count)])


@intrinsic
def copy_plain(typing: Any, source: Any, at: Any, target: Any, to: Any) -> Any:
    """Copy `WIDE` bytes; how many of them come before the first 0xFF."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, (found, first, other, second) = ir.VectorType(_BYTE, WIDE), arguments
        values = builder.load(_place(context, builder, signature.args[0], found, first, kind), align=1)
        builder.store(values, _place(context, builder, signature.args[2], other, second, kind), align=1)
        equal = builder.icmp_unsigned("==", values, ir.Constant(kind, [255] * WIDE))
        mask = builder.zext(builder.bitcast(equal, ir.IntType(WIDE)), ir.IntType(64))
        beyond = builder.or_(mask, ir.Constant(ir.IntType(64), 1 << WIDE))
        return builder.cttz(beyond, ir.Constant(ir.IntType(1), 1))

    return types.uintp(source, types.uintp, target, types.uintp), generate
