"""A scan's entropy-coded bits into coefficients, of the blocks under a window; the others are only counted off."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy import int16, uint64, uintp

from resflow.decode.jpeg.huffman import (
    CODES,
    LOOK,
    build_codes,
    build_pairs,
    build_whole,
    number,
    one_ac,
    symbol_at,
)
from resflow.decode.jpeg.inverse import BLOCK, inverse
from resflow.decode.jpeg.segments import AC, ACROSS, COMPONENTS, DC, DOWN, HEIGHT, QUANT, RESTART, SCAN, WIDTH
from resflow.decode.jpeg.vectors import LANES, WIDE, copy_plain

# Places of the coefficients in the order of the file.
_ZIGZAG = np.array(sorted(range(64), key=lambda k: (k // 8 + k % 8, k % 8 if (k // 8 + k % 8) % 2 == 0 else k // 8)))
# Zeros after the scan's last byte. A block takes at most 260 bytes and a place is checked before each unit of 6 blocks.
_PAD = 4096
_TOP = uint64(64 - LOOK)
# How often `pairs` can be asked with what `next_bits` gives, and with what a DC value of at most 27 bits leaves of it.
_STEPS, _FEWER = 57 // LOOK, 30 // LOOK


@njit(nogil=True)
def next_bits(data, bit):
    """What follows a bit: 57 bits or more, the first one highest."""
    return eight_bytes(data, uintp(bit >> uint64(3))) << (bit & uint64(7))


@njit(nogil=True)
def eight_bytes(data, at):
    """Eight bytes, the first one highest; one machine instruction."""
    return (
        (uint64(data[at]) << uint64(56))
        | (uint64(data[at + uintp(1)]) << uint64(48))
        | (uint64(data[at + uintp(2)]) << uint64(40))
        | (uint64(data[at + uintp(3)]) << uint64(32))
        | (uint64(data[at + uintp(4)]) << uint64(24))
        | (uint64(data[at + uintp(5)]) << uint64(16))
        | (uint64(data[at + uintp(6)]) << uint64(8))
        | uint64(data[at + uintp(7)])
    )


@njit(nogil=True)
def unstuff(data, start, plain, ends):
    """Copy a scan without the zero bytes stuffed after 0xFF and without restart markers.

    Args:
        data: uint8 [n], the file; its last two bytes end the picture.
        start: where the scan starts.
        plain: uint8 [n + _PAD], filled, zeros after the end.
        ends: int64 [segments], filled with the end in `plain` of what lies before each restart.

    Returns:
        Whether there are as many segments as `ends` is long, in order, and no other marker among them.
    """
    stop = data.shape[0] - 2
    read, write, segment = uintp(start), uintp(0), 0
    while read < stop:
        copied = uintp(0)
        if read + uintp(WIDE) <= stop:
            copied = copy_plain(data, read, plain, write)
        else:
            while read + copied < stop and data[read + copied] != 0xFF:
                plain[write + copied] = data[read + copied]
                copied += uintp(1)
        read += copied
        write += copied
        if copied == uintp(WIDE) or read >= stop:
            continue
        after = data[read + uintp(1)]
        if after == 0:
            plain[write] = 0xFF
            write += uintp(1)
        elif (after & 0xF8) == 0xD0 and (after & 7) == (segment & 7) and segment + 1 < ends.shape[0]:
            ends[segment] = write
            segment += 1
        else:
            return False
        read += uintp(2)
    ends[segment] = write
    plain[write : write + uintp(_PAD)] = 0
    return segment + 1 == ends.shape[0]


@njit(nogil=True)
def build_tables(info, counts, symbols, codes, pairs):
    """The tables that a scan's components use; whether they can be."""
    whole = np.empty(1 << LOOK, np.int32)
    used = 0
    for c in range(info[COMPONENTS]):
        used |= (1 << info[DC + c]) | (1 << info[AC + c])
    for table in range(4):
        if (used >> table) & 1:
            if not build_codes(counts, symbols, table, codes):
                return False
            if table >= 2:
                build_whole(codes, table, whole)
                build_pairs(whole, table, pairs)
    return True


@njit(nogil=True)
def read_scan(data, info, quant, counts, symbols, window, sides, planes, starts, strides):
    """Decode the blocks under a window into planes.

    Args:
        data: uint8 [n], the file.
        info: int64 [INFO], as `read_segments` filled it.
        quant: float32 [4 * 64], quantisation tables in zigzag order.
        counts: uint8 [4 * 16], of the Huffman codes.
        symbols: uint8 [4 * 256], of the Huffman codes.
        window: int64 [4], left, top, right, bottom of the units (MCU) that are wanted.
        sides: int64 [3], pixels a block's side becomes, of each component: 8 or one of `SIDES`.
        planes: uint8 [n], filled with the components' pixels under the window, one component after another.
        starts: int64 [3], where each component starts in it.
        strides: int64 [3], bytes of a row of each component: a multiple of `LANES` blocks.

    Returns:
        Whether the bits down to the window's end are sound.
    """
    components, restart = info[COMPONENTS], info[RESTART]
    across = -(-info[WIDTH] // (8 * info[ACROSS]))
    units = across * -(-info[HEIGHT] // (8 * info[DOWN]))
    left, top, right, bottom = window[0], window[1], window[2], window[3]

    ends = np.empty(-(-units // restart) if restart else 1, np.int64)
    plain = np.empty(data.shape[0] + _PAD, np.uint8)
    if not unstuff(data, info[SCAN], plain, ends):
        return False
    codes, pairs = np.empty(4 * CODES, np.int32), np.empty(2 << LOOK, np.int64)
    if not build_tables(info, counts, symbols, codes, pairs):
        return False

    # A coefficient's place in its group of blocks; those that do not count share one behind the others.
    places = np.full(3 * 256, 64 * LANES, np.int32)
    scale = np.zeros(3 * 64, np.float32)
    last = np.zeros(3, np.int64)
    groups, firsts = np.zeros(3, np.int64), np.zeros(4, np.int64)
    for c in range(components):
        for k in range(64):
            place = _ZIGZAG[k]
            scale[c * 64 + place] = quant[info[QUANT + c] * 64 + k]
            if place >> 3 < sides[c] and place & 7 < sides[c]:
                places[c * 256 + k] = place * LANES
                last[c] = k
        groups[c] = -(-((right - left) * info[ACROSS + c]) // LANES)
        firsts[c + 1] = firsts[c] + groups[c] * info[DOWN + c] * BLOCK
    coefficients = np.empty(firsts[components], np.int16)
    work = np.empty(64 * LANES, np.float32)

    before = np.zeros(3, np.int64)  # the DC value of each component's last block
    bit = uint64(0)  # the next one to be read
    segment, countdown = 0, restart
    for row in range(bottom):
        shown = row >= top
        if shown:
            coefficients[:] = 0
        for column in range(right if row == bottom - 1 else across):
            if restart:
                if countdown == 0:
                    if bit > uint64(ends[segment] << 3):
                        return False
                    bit = uint64(ends[segment] << 3)
                    before[:] = 0
                    segment += 1
                    countdown = restart
                countdown -= 1
            if bit > uint64((ends[segment] + 16) << 3):
                return False
            wanted = shown and left <= column < right
            for c in range(components):
                dc, ac = info[DC + c], info[AC + c]
                ac_pairs = uintp((ac - 2) << LOOK)
                order, keep = uintp(c * 256), uintp(last[c] if wanted else 0)
                for line in range(info[DOWN + c]):
                    for part in range(info[ACROSS + c]):
                        ahead = next_bits(plain, bit)
                        found = symbol_at(codes, symbols, dc, ahead)
                        size = found & 255
                        if found == 0 or size > 11:
                            return False
                        before[c] += number(ahead, found >> 8, size)
                        used = uint64((found >> 8) + size)
                        bit += used
                        ahead <<= used

                        k, spot = uintp(1), uintp(0)
                        if wanted:
                            lane = (column - left) * info[ACROSS + c] + part
                            spot = uintp(firsts[c] + (line * groups[c] + lane // LANES) * BLOCK + lane % LANES)
                            coefficients[spot] = int16(before[c])
                        steps = _FEWER
                        while k <= keep:
                            entry = pairs[ac_pairs + uintp(ahead >> _TOP)]
                            while entry and k + uintp((entry >> 24) & 255) <= uintp(62):
                                k += uintp((entry >> 8) & 255)
                                coefficients[spot + uintp(places[order + k])] = int16(entry >> 32)
                                k += uintp((entry >> 16) & 255)
                                coefficients[spot + uintp(places[order + k])] = int16(entry >> 48)
                                k += uintp(1)
                                ahead <<= uint64(entry & 255)
                                bit += uint64(entry & 255)
                                steps -= 1
                                if k > keep or steps == 0:
                                    break
                                entry = pairs[ac_pairs + uintp(ahead >> _TOP)]
                            else:
                                entry = one_ac(codes, symbols, ac, next_bits(plain, bit))
                                if entry == 0:
                                    return False
                                k += uintp((entry >> 8) & 255)
                                coefficients[spot + uintp(places[order + k])] = int16(entry >> 16)
                                k += uintp(1)
                                bit += uint64(entry & 255)
                            ahead, steps = next_bits(plain, bit), _STEPS
                        while k < uintp(64):
                            entry = pairs[ac_pairs + uintp(ahead >> _TOP)]
                            while entry and k + uintp((entry >> 24) & 255) <= uintp(62):
                                k += uintp((entry >> 8) & 255) + uintp((entry >> 16) & 255) + uintp(1)
                                ahead <<= uint64(entry & 255)
                                bit += uint64(entry & 255)
                                steps -= 1
                                if k >= uintp(64) or steps == 0:
                                    break
                                entry = pairs[ac_pairs + uintp(ahead >> _TOP)]
                            else:
                                entry = one_ac(codes, symbols, ac, next_bits(plain, bit))
                                if entry == 0:
                                    return False
                                k += uintp((entry >> 8) & 255) + uintp(1)
                                bit += uint64(entry & 255)
                            ahead, steps = next_bits(plain, bit), _STEPS
                        if uintp(64) < k < uintp(128):  # a run led past the block's end
                            return False
        if bit > uint64(ends[segment] << 3):
            return False
        if shown:
            for c in range(components):
                for line in range(info[DOWN + c]):
                    to = starts[c] + ((row - top) * info[DOWN + c] + line) * sides[c] * strides[c]
                    source = firsts[c] + line * groups[c] * BLOCK
                    inverse(coefficients, source, groups[c], scale, c * 64, work, planes, to, strides[c], sides[c])
    return True
