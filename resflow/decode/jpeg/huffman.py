"""Look-up tables for a scan's Huffman codes.

Each table answers for the next `LOOK` bits:

- `codes`: length << 8 | symbol; 0 where the code is longer than `LOOK` bits.
- `whole`, of AC codes: a code with the number that follows it, where both fit: bits | run << 8 | number << 16; 0
  otherwise. The end of a block is a run of `END`.
- `pairs`: two of those at once, where both fit. At 5 to 6 bits each that is what mostly happens, and it halves the
  steps of the loop that the time goes to.
"""

from __future__ import annotations

from numba import njit
from numpy import int64, uint64, uintp

LOOK = 10
"""Bits a table is asked for: with 9 the loop takes more steps; with 11, tables push pixels out of the nearest cache."""
CODES = (1 << LOOK) + 34
"""Entries of one `codes` table: those of short codes, then offset and end of the codes of each length."""
END = 128


@njit(nogil=True)
def build_codes(counts, symbols, table, codes):
    """Fill one table of `codes`.

    Args:
        counts: uint8 [4 * 16].
        symbols: uint8 [4 * 256].
        table: which of the four.
        codes: int32 [4 * CODES], filled at `table`.

    Returns:
        Whether the code can be: no more codes than there are strings of their length.
    """
    base = table * CODES
    for i in range(1 << LOOK):
        codes[base + i] = 0
    code, at = 0, 0
    for bits in range(1, 17):
        codes[base + (1 << LOOK) + bits] = at - code
        for _ in range(counts[table * 16 + bits - 1]):
            if code >= 1 << bits:
                return False
            if bits <= LOOK:
                entry = (bits << 8) | int64(symbols[table * 256 + at])
                first = base + (code << (LOOK - bits))
                for i in range(first, first + (1 << (LOOK - bits))):
                    codes[i] = entry
            code += 1
            at += 1
        codes[base + (1 << LOOK) + 17 + bits] = code
        code <<= 1
    return True


@njit(nogil=True)
def long_code(codes, symbols, table, ahead):
    """Length << 8 | symbol of a code of more than `LOOK` bits, the first of `ahead`; 0 if there is none."""
    base = table * CODES + (1 << LOOK)
    for bits in range(LOOK + 1, 17):
        code = int64(ahead >> uint64(64 - bits))
        if code < codes[base + 17 + bits]:
            return (bits << 8) | int64(symbols[table * 256 + ((codes[base + bits] + code) & 255)])
    return 0


@njit(nogil=True)
def symbol_at(codes, symbols, table, ahead):
    """Length << 8 | symbol of the code at the front of `ahead`; 0 if there is none."""
    found = int64(codes[uintp(table * CODES) + uintp(ahead >> uint64(64 - LOOK))])
    return found if found else long_code(codes, symbols, table, ahead)


@njit(nogil=True)
def number(ahead, length, size):
    """The number of `size` bits, 0 to 11, that follows a code of `length` bits at the front of `ahead`."""
    value = int64((ahead << uint64(length)) >> uint64(1) >> uint64(63 - size))
    limit = int64(1) << size
    return value if value >= limit >> 1 else value - limit + 1


@njit(nogil=True)
def with_number(found, ahead):
    """A coefficient and the zeros before it: bits | run << 8 | number << 16; 0 where it is not one.

    Args:
        found: length << 8 | symbol of the code at the front of `ahead`, or 0.
        ahead: bits.
    """
    length, run, size = found >> 8, (found >> 4) & 15, found & 15
    if found == 0 or (size == 0 and 0 < run < 15):
        return int64(0)
    if found & 255 == 0:
        run = END
    return length + size + run * 256 + number(ahead, length, size) * 65536


@njit(nogil=True)
def one_ac(codes, symbols, table, ahead):
    """The coefficient at the front of `ahead`, as `with_number` gives it."""
    return with_number(symbol_at(codes, symbols, table, ahead), ahead)


@njit(nogil=True)
def build_whole(codes, table, whole):
    """Fill `whole`, int32 [1 << LOOK], from an AC table's `codes`."""
    for i in range(1 << LOOK):
        entry = with_number(int64(codes[table * CODES + i]), uint64(i) << uint64(64 - LOOK))
        whole[i] = entry if entry & 255 <= LOOK else 0


@njit(nogil=True)
def build_pairs(whole, table, pairs):
    """Fill one table of `pairs`, int64 [2 << LOOK], from the `whole` of AC table 2 or 3.

    An entry is bits | first run << 8 | way to the second << 16 | last place << 24 | first << 32 | second << 48. Where
    there is only one, it stands in both places and the way is 0. The last place is what the first run may lead to at
    most if a second follows: past it, the second is not this block's.
    """
    for i in range(1 << LOOK):
        one = int64(whole[i])
        bits, run, value = one & 255, (one >> 8) & 255, one >> 16
        other = int64(whole[(i << bits) & ((1 << LOOK) - 1)])
        both = bits + (other & 255)
        alone = bits | (value << 48)
        way = ((other >> 8) & 255) + 1
        followed = both | (way << 16) | (run << 24) | ((other >> 16) << 48)
        two = (one != 0) & (run < END) & (other != 0) & (both <= LOOK)
        pairs[((table - 2) << LOOK) + i] = (followed if two else alone) | (run << 8) | ((value & 0xFFFF) << 32)
