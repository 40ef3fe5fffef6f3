/* How the look-up tables are made. Source: ITU-T T.81, annex C. */
#include "huffman.h"

static bool build_codes(const uint8_t lengths[16], const uint8_t symbols[256], struct codes *codes) {
    uint32_t code = 0, at = 0;
    memset(codes, 0, sizeof *codes);
    memcpy(codes->symbols, symbols, 256);
    for (unsigned bits = 1; bits < 17; bits++) {
        codes->offset[bits] = (int32_t)at - (int32_t)code;
        for (unsigned k = 0; k < lengths[bits - 1]; k++, code++, at++) {
            if (code >= 1U << bits) return false;
            if (bits <= LOOK) { /* below 1 << bits, so that all of the code's places are below LOOKS */
                const uint32_t first = code << (LOOK - bits), entry = bits << 8 | symbols[at & 255];
                for (uint32_t i = 0; i < 1U << (LOOK - bits); i++) codes->found[first + i] = entry;
            }
        }
        codes->end[bits] = (int32_t)code;
        code <<= 1;
    }
    return true;
}

static void build_pairs(const struct codes *codes, struct pairs *pairs) {
    uint64_t whole[LOOKS];
    for (size_t i = 0; i < LOOKS; i++) {
        const uint64_t entry = with_number(codes->found[i], (uint64_t)i << (64 - LOOK));
        whole[i] = (entry & 255) <= LOOK ? entry : 0;
    }
    for (size_t i = 0; i < LOOKS; i++) {
        const uint64_t one = whole[i], bits = one & 255, run = one >> 8 & 255, value = one >> 16 & 0xFFFF;
        const uint64_t other = whole[i << bits & (LOOKS - 1)], both = bits + (other & 255);
        const uint64_t way = (other >> 8 & 255) + 1, second = other >> 16 & 0xFFFF;
        const bool two = one && run < END && other && both <= LOOK;
        const uint64_t rest = two ? both | way << 16 | run << 24 | second << 48 : bits | value << 48;
        pairs->found[i] = rest | run << 8 | value << 32;
    }
}
