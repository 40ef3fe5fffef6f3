"""The segments before a JPEG's scan, read into arrays."""

from __future__ import annotations

from numba import njit
from numpy import int64

# Places in `info`. The last ones hold a value for each of three components.
WIDTH, HEIGHT, COMPONENTS, RESTART, SCAN, APP1 = 0, 1, 2, 3, 4, 5
ACROSS, DOWN, QUANT, DC, AC = 8, 11, 14, 17, 20
INFO = 24

_JFIF = (0x4A, 0x46, 0x49, 0x46)
_ADOBE = (0x41, 0x64, 0x6F, 0x62, 0x65)


@njit(nogil=True)
def starts_with(data, at, end, tag):
    """Whether a segment's content starts with `tag`."""
    if at + len(tag) > end:
        return False
    same = True
    for k in range(len(tag)):
        same &= data[at + k] == tag[k]
    return same


@njit(nogil=True)
def read_quantisation(data, at, end, quant):
    """Fill `quant` from a DQT segment; the tables it held as bits, 0 where it is of another kind."""
    found = 0
    while at < end:
        table = int64(data[at])
        if table > 3 or at + 65 > end:  # 16-bit values have a high nibble
            return 0
        for k in range(64):
            quant[table * 64 + k] = data[at + 1 + k]
        found |= 1 << table
        at += 65
    return found


@njit(nogil=True)
def read_codes(data, at, end, counts, symbols):
    """Fill `counts` and `symbols` from a DHT segment; the tables it held as bits, 0 where it is not sound."""
    found = 0
    while at < end:
        if at + 17 > end or data[at] & 0xEE:
            return 0
        table = int64(data[at] >> 4) * 2 + int64(data[at] & 1)
        total = 0
        for k in range(16):
            counts[table * 16 + k] = data[at + 1 + k]
            total += int64(data[at + 1 + k])
        at += 17
        if total > 256 or at + total > end:
            return 0
        for k in range(total):
            symbols[table * 256 + k] = data[at + k]
        at += total
        found |= 1 << table
    return found


@njit(nogil=True)
def read_frame(data, at, end, info):
    """Fill `info` from a SOF segment; whether it is one of the kinds that are taken."""
    if end - at < 6 or data[at] != 8:
        return False
    components = int64(data[at + 5])
    if (components != 1 and components != 3) or end - at != 6 + 3 * components:
        return False
    info[HEIGHT] = (int64(data[at + 1]) << 8) | int64(data[at + 2])
    info[WIDTH] = (int64(data[at + 3]) << 8) | int64(data[at + 4])
    info[COMPONENTS] = components
    for c in range(components):
        sampling = int64(data[at + 7 + 3 * c])
        info[ACROSS + c], info[DOWN + c] = sampling >> 4, sampling & 15
        info[QUANT + c] = data[at + 8 + 3 * c]
        if info[QUANT + c] > 3:
            return False
    if components == 1:
        info[ACROSS] = info[DOWN] = 1  # a single component is not interleaved, whatever it says
    elif not (1 <= info[ACROSS] <= 2 and 1 <= info[DOWN] <= 2):
        return False
    whole = True
    for c in range(1, components):  # colour at the picture's size, or at half of it
        whole &= info[ACROSS + c] == 1 and info[DOWN + c] == 1
    return whole


@njit(nogil=True)
def read_scan(data, at, end, frame, info, quants, codes):
    """Fill `info` from the SOS segment; whether the one scan holds the whole picture, with tables that are there."""
    components = info[COMPONENTS]
    if end - at != 4 + 2 * components or data[at] != components:
        return False
    for c in range(components):
        if data[at + 1 + 2 * c] != data[frame + 6 + 3 * c]:
            return False
        tables = int64(data[at + 2 + 2 * c])
        info[DC + c], info[AC + c] = tables >> 4, 2 + (tables & 15)
        if tables & 0xEE or not (codes >> info[DC + c]) & (codes >> info[AC + c]) & (quants >> info[QUANT + c]) & 1:
            return False
    return data[end - 3] == 0 and data[end - 2] == 63 and data[end - 1] == 0


@njit(nogil=True)
def read_segments(data, info, quant, counts, symbols):
    """Read everything before the scan.

    Args:
        data: uint8 [n], the file.
        info: int64 [INFO], filled.
        quant: float32 [4 * 64], filled: quantisation tables in zigzag order.
        counts: uint8 [4 * 16], filled: codes of each length, of DC tables 0 and 1 and AC tables 0 and 1.
        symbols: uint8 [4 * 256], filled.

    Returns:
        Whether it is a baseline JPEG of one whole scan, in grey or YCbCr, that ends as it should.
    """
    size = data.shape[0]
    if size < 4 or data[0] != 0xFF or data[1] != 0xD8 or data[size - 2] != 0xFF or data[size - 1] != 0xD9:
        return False
    at, frame, quants, codes, adobe = 2, 0, 0, 0, -1
    jfif = False
    info[RESTART] = info[APP1] = 0
    while at + 4 <= size and data[at] == 0xFF:
        marker = data[at + 1]
        end = at + 2 + ((int64(data[at + 2]) << 8) | int64(data[at + 3]))
        at += 4
        if end < at or end > size:
            return False
        if marker == 0xDB:
            found = read_quantisation(data, at, end, quant)
            quants |= found
            if not found:
                return False
        elif marker == 0xC4:
            found = read_codes(data, at, end, counts, symbols)
            codes |= found
            if not found:
                return False
        elif marker == 0xC0 or marker == 0xC1:
            if frame or not read_frame(data, at, end, info):
                return False
            frame = at
        elif marker == 0xDD:
            if end - at != 2:
                return False
            info[RESTART] = (int64(data[at]) << 8) | int64(data[at + 1])
        elif marker == 0xE1:
            info[APP1] = 1
        elif marker == 0xE0:
            jfif |= starts_with(data, at, end, _JFIF)
        elif marker == 0xEE:
            if starts_with(data, at, end, _ADOBE) and end - at >= 12:
                adobe = int64(data[at + 11])
        elif marker == 0xDA:
            info[SCAN] = end
            rgb = adobe == 0 or (adobe < 0 and data[frame + 6] == 82)  # Adobe's mark, or components named "RGB"
            if not frame or (info[COMPONENTS] == 3 and not jfif and rgb):
                return False
            return read_scan(data, at, end, frame, info, quants, codes)
        elif marker < 0xE0 or marker > 0xFE or marker == 0xF7 or marker == 0xF8:
            return False
        at = end
    return False
