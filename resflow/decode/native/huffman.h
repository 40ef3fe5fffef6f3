/* Look-up tables for a scan's Huffman codes. Each answers for the next LOOK bits.
 *
 *   codes   length << 8 | symbol; 0 where the code is longer
 *   whole   of AC codes: a code with the number that follows it, where both fit: bits | run << 8 | number << 16; 0
 *           otherwise. The end of a block is a run of END.
 *   pairs   two of those at once, where both fit. At 5 to 6 bits each that is what mostly happens, and it halves the
 *           steps of the loop that the time goes to. */
#ifndef RESFLOW_HUFFMAN_H
#define RESFLOW_HUFFMAN_H

#include "jpeg.h"

#define LOOK 10 /* with 9 the loop takes more steps; with 11, tables push pixels out of the nearest cache */
#define LOOKS (1U << LOOK)
#define END 128

struct codes {
    uint32_t found[LOOKS];
    int32_t offset[17]; /* of a length's codes: where their symbols start, less the first code */
    int32_t end[17];    /* one more than the last code of a length */
    uint8_t symbols[256];
};

/* Bits | first run << 8 | way to the second << 16 | last place << 24 | first << 32 | second << 48. Where there is only
 * one, it stands in both places and the way is 0. The last place is what the first run may lead to at most if a second
 * follows: past it, the second is not this block's. */
struct pairs {
    uint64_t found[LOOKS];
};

/* Length << 8 | symbol of a code of more than LOOK bits, the first of `ahead`; 0 if there is none. */
static inline uint32_t long_code(const struct codes *codes, uint64_t ahead) {
    for (unsigned bits = LOOK + 1; bits < 17; bits++) {
        const int32_t code = (int32_t)(ahead >> (64 - bits));
        if (code < codes->end[bits]) return bits << 8 | codes->symbols[(codes->offset[bits] + code) & 255];
    }
    return 0;
}

/* Length << 8 | symbol of the code at the front of `ahead`; 0 if there is none. */
static inline uint32_t symbol_at(const struct codes *codes, uint64_t ahead) {
    const uint32_t found = codes->found[ahead >> (64 - LOOK)];
    return found ? found : long_code(codes, ahead);
}

/* The number of `size` bits, 0 to 15, that follows a code of `length` bits, 1 to 16, at the front of `ahead`. */
static inline int32_t number(uint64_t ahead, uint32_t length, uint32_t size) {
    const int32_t value = (int32_t)(ahead << length >> 1 >> (63 - size)), limit = (int32_t)1 << size;
    return value >= limit >> 1 ? value : value - limit + 1;
}

/* An AC code, as `symbol_at` found it, with its number: bits | run << 8 | number << 16; 0 where it is none. */
static inline uint64_t with_number(uint32_t found, uint64_t ahead) {
    const uint32_t length = found >> 8, size = found & 15;
    uint32_t run = found >> 4 & 15;
    if (!found || (size == 0 && run > 0 && run < 15)) return 0;
    if (!(found & 255)) run = END;
    return (length + size) | run << 8 | (uint64_t)(uint16_t)number(ahead, length, size) << 16;
}

/* Fills `codes`; whether they can be: no more codes than there are strings of their length. */
static bool build_codes(const uint8_t lengths[16], const uint8_t symbols[256], struct codes *codes);

/* Fills `pairs` from an AC table. */
static void build_pairs(const struct codes *codes, struct pairs *pairs);

#endif
