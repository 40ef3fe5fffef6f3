/* A scan's entropy-coded bits into coefficients, of the blocks under a window; the others are only counted off.
 * Source: ITU-T T.81, annex F. */
#include "huffman.h"
#include "native.h"

/* Places of the coefficients in the order of the file. */
static const uint8_t ZIGZAG[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                                   41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                                   30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* Zeros behind the scan's last byte. A unit has at most 6 blocks of 64 codes of at most 31 bits, 1,488 bytes, and starts
 * at most AHEAD bytes behind the end of its segment: no read gets near the end of the zeros. */
#define PAD 4096
#define AHEAD 16
/* How often pairs can be asked with what `next_bits` gives, and with what a DC value of at most 27 bits leaves of it. */
#define STEPS (57 / LOOK)
#define FEWER (30 / LOOK)

/* What follows a bit: 57 bits or more, the first one highest. */
static inline uint64_t next_bits(const uint8_t *plain, uint64_t bit) {
    uint64_t word;
    memcpy(&word, plain + (bit >> 3), sizeof word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word << (bit & 7);
}

/* The bytes before the first 0xFF of eight; 8 where there is none. */
static inline size_t before_marker(const uint8_t *from) {
    uint64_t word;
    memcpy(&word, from, sizeof word);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    const uint64_t zeros = ~word, found = (zeros - 0x0101010101010101U) & word & 0x8080808080808080U;
    return found ? (size_t)__builtin_ctzll(found) >> 3 : 8;
}

/* Copies a scan without the zero bytes stuffed after 0xFF and without restart markers.
 *
 *   start      where the scan starts; the file's last two bytes end the picture
 *   plain      file.size + PAD bytes, filled; zeros behind the end
 *   ends       `segments`, filled with the end in `plain` of what lies before each restart
 *
 * Whether there are so many segments, in order, and no other marker among them. */
static bool unstuff(struct span file, size_t start, uint8_t *plain, size_t *ends, size_t segments) {
    /* At least as many bytes were read as are written, so that `plain` holds all. */
    const size_t stop = file.size - 2;
    size_t read = start, write = 0, segment = 0;
    while (read < stop) {
        if (stop - read >= 8) {
            const size_t copied = before_marker(file.data + read);
            memcpy(plain + write, file.data + read, 8);
            read += copied;
            write += copied;
            if (copied == 8) continue;
        } else if (file.data[read] != 0xFF) {
            plain[write++] = file.data[read++];
            continue;
        }
        const unsigned after = file.data[read + 1]; /* there: two bytes follow `stop` */
        if (after == 0) {
            plain[write++] = 0xFF;
        } else if ((after & 0xF8) == 0xD0 && (after & 7) == (segment & 7) && segment + 1 < segments) {
            ends[segment++] = write;
        } else {
            return false;
        }
        read += 2;
    }
    ends[segment] = write;
    memset(plain + write, 0, PAD);
    return segment + 1 == segments;
}

/* All that decoding one component's blocks takes. */
struct reader {
    const struct codes *dc, *ac;
    const struct pairs *pairs;
    uint16_t places[256]; /* of a coefficient in its group; those that do not count share the one behind the others */
    size_t last;          /* the last coefficient that counts */
    uint32_t before;      /* the DC value of the last block; wraps around in files that are damaged */
    size_t groups;        /* of LANES blocks, in a row */
    int16_t *coefficients;
    float scale[64];
};

/* Reads the block at `*bit`, and puts it at `spot` unless that is NULL; whether it is sound.
 *
 * A place k starts at 1 and grows by a run, at most END, and 1; so `places` has an entry for whatever k leads to. */
static inline bool read_block(struct reader *reader, const uint8_t *plain, uint64_t *at, int16_t *spot) {
    const uint64_t *pairs = reader->pairs->found;
    const uint16_t *places = reader->places;
    uint64_t bit = *at, ahead = next_bits(plain, bit), entry;
    const uint32_t found = symbol_at(reader->dc, ahead), length = found >> 8, size = found & 255;
    if (!found || size > 11) return false;
    reader->before += (uint32_t)number(ahead, length, size);
    bit += length + size;
    ahead <<= length + size;

    size_t k = 1, keep = 0;
    int steps = FEWER;
    if (spot) {
        spot[0] = (int16_t)reader->before;
        keep = reader->last;
    }
    while (k <= keep) {
        for (;;) {
            entry = pairs[ahead >> (64 - LOOK)];
            if (!entry || k + (entry >> 24 & 255) > 62) {
                ahead = next_bits(plain, bit);
                entry = with_number(symbol_at(reader->ac, ahead), ahead);
                if (!entry) return false;
                k += entry >> 8 & 255;
                spot[places[k]] = (int16_t)(entry >> 16);
                k++;
                bit += entry & 255;
                break;
            }
            k += entry >> 8 & 255;
            spot[places[k]] = (int16_t)(entry >> 32);
            k += entry >> 16 & 255;
            spot[places[k]] = (int16_t)(entry >> 48);
            k++;
            ahead <<= entry & 255;
            bit += entry & 255;
            if (k > keep || --steps == 0) break;
        }
        ahead = next_bits(plain, bit);
        steps = STEPS;
    }
    while (k < 64) {
        for (;;) {
            entry = pairs[ahead >> (64 - LOOK)];
            if (!entry || k + (entry >> 24 & 255) > 62) {
                ahead = next_bits(plain, bit);
                entry = with_number(symbol_at(reader->ac, ahead), ahead);
                if (!entry) return false;
                k += (entry >> 8 & 255) + 1;
                bit += entry & 255;
                break;
            }
            k += (entry >> 8 & 255) + (entry >> 16 & 255) + 1;
            ahead <<= entry & 255;
            bit += entry & 255;
            if (k >= 64 || --steps == 0) break;
        }
        ahead = next_bits(plain, bit);
        steps = STEPS;
    }
    *at = bit;
    return k == 64 || k >= END; /* otherwise a run led past the block's end */
}

/* The tables of all components; whether they can be. */
static bool build_tables(const struct picture *picture, struct codes codes[4], struct pairs pairs[2]) {
    unsigned used = 0;
    for (size_t c = 0; c < picture->count; c++) {
        used |= 1U << picture->components[c].dc | 1U << picture->components[c].ac;
    }
    for (size_t table = 0; table < 4; table++) {
        if (!(used >> table & 1)) continue;
        if (!build_codes(picture->lengths[table], picture->symbols[table], &codes[table])) return false;
        if (table >= 2) build_pairs(&codes[table], &pairs[table - 2]);
    }
    return true;
}

static void open_reader(struct reader *reader, const struct picture *picture, size_t c, size_t side,
                        const struct codes codes[4], const struct pairs pairs[2]) {
    const struct component *component = &picture->components[c];
    reader->dc = &codes[component->dc];
    reader->ac = &codes[component->ac];
    reader->pairs = &pairs[component->ac - 2];
    reader->last = 0;
    reader->before = 0;
    for (size_t k = 0; k < 256; k++) reader->places[k] = 64 * LANES;
    for (size_t k = 0; k < 64; k++) {
        const size_t place = ZIGZAG[k];
        reader->scale[place] = (float)picture->steps[component->quantisation][k];
        if (place >> 3 < side && (place & 7) < side) {
            reader->places[k] = (uint16_t)(place * LANES);
            reader->last = k;
        }
    }
}

static int read_scan(struct span file, const struct picture *picture, struct window window,
                     const struct plane planes[3], struct memory *memory) {
    const size_t count = picture->count, restart = picture->restart, units_x = 8 * picture->components[0].across;
    const size_t across = (picture->width + units_x - 1) / units_x, units_y = 8 * picture->components[0].down;
    const size_t units = across * ((picture->height + units_y - 1) / units_y);
    const size_t segments = restart ? (units + restart - 1) / restart : 1;
    if (segments > file.size / 2) return RESFLOW_NOT_TAKEN; /* two bytes each, at least */

    size_t *ends = take(memory, segments, sizeof *ends);
    uint8_t *plain = take(memory, file.size + PAD, 1);
    struct codes *codes = take(memory, 4, sizeof *codes);
    struct pairs *pairs = take(memory, 2, sizeof *pairs);
    if (memory->failed) return RESFLOW_NO_MEMORY;
    if (!unstuff(file, picture->scan, plain, ends, segments)) return RESFLOW_NOT_TAKEN;
    if (!build_tables(picture, codes, pairs)) return RESFLOW_NOT_TAKEN;

    struct reader readers[3];
    size_t rooms[3];
    for (size_t c = 0; c < count; c++) {
        const struct component *component = &picture->components[c];
        open_reader(&readers[c], picture, c, planes[c].side, codes, pairs);
        readers[c].groups = ((window.right - window.left) * component->across + LANES - 1) / LANES;
        rooms[c] = readers[c].groups * component->down * GROUP;
        readers[c].coefficients = take(memory, rooms[c], sizeof(int16_t));
    }
    if (memory->failed) return RESFLOW_NO_MEMORY;

    uint64_t bit = 0; /* the next one to be read: at most AHEAD bytes behind its segment's end */
    size_t segment = 0, countdown = restart;
    for (size_t row = 0; row < window.bottom; row++) {
        const bool shown = row >= window.top;
        for (size_t c = 0; shown && c < count; c++) memset(readers[c].coefficients, 0, rooms[c] * sizeof(int16_t));
        const size_t stop = row == window.bottom - 1 ? window.right : across;
        for (size_t column = 0; column < stop; column++) {
            if (restart && countdown-- == 0) {
                const uint64_t next = (uint64_t)ends[segment] << 3;
                if (bit > next) return RESFLOW_NOT_TAKEN;
                bit = next;
                for (size_t c = 0; c < count; c++) readers[c].before = 0;
                segment++; /* below `segments`: there is one for every `restart` units */
                countdown = restart - 1;
            }
            if (bit > ((uint64_t)ends[segment] + AHEAD) << 3) return RESFLOW_NOT_TAKEN;
            const bool wanted = shown && window.left <= column && column < window.right;
            for (size_t c = 0; c < count; c++) {
                struct reader *reader = &readers[c];
                const size_t wide = picture->components[c].across, high = picture->components[c].down;
                for (size_t line = 0; line < high; line++) {
                    for (size_t part = 0; part < wide; part++) {
                        int16_t *spot = NULL;
                        if (wanted) {
                            const size_t lane = (column - window.left) * wide + part;
                            const size_t group = line * reader->groups + lane / LANES;
                            spot = reader->coefficients + group * GROUP + lane % LANES;
                        }
                        if (!read_block(reader, plain, &bit, spot)) return RESFLOW_NOT_TAKEN;
                    }
                }
            }
        }
        if (bit > (uint64_t)ends[segment] << 3) return RESFLOW_NOT_TAKEN;
        for (size_t c = 0; shown && c < count; c++) {
            const size_t high = picture->components[c].down, side = planes[c].side;
            for (size_t line = 0; line < high; line++) {
                uint8_t *to = planes[c].pixels + ((row - window.top) * high + line) * side * planes[c].stride;
                const int16_t *from = readers[c].coefficients + line * readers[c].groups * GROUP;
                inverse(from, readers[c].groups, readers[c].scale, to, planes[c].stride, side);
            }
        }
    }
    return RESFLOW_DONE;
}
