/* What the parts of the JPEG decoder share. */
#ifndef RESFLOW_JPEG_H
#define RESFLOW_JPEG_H

#include "memory.h"
#include "vectors.h"

/* Bytes of a file, or of a segment of it. Reads beyond the end give 0. */
struct span {
    const uint8_t *data;
    size_t size;
};

static inline unsigned byte_at(struct span span, size_t at) { return at < span.size ? span.data[at] : 0U; }

static inline unsigned pair_at(struct span span, size_t at) { return byte_at(span, at) << 8 | byte_at(span, at + 1); }

struct component {
    unsigned identifier;
    size_t across, down; /* blocks in a unit (MCU): 1 or 2 */
    size_t quantisation; /* table, 0 to 3 */
    size_t dc, ac;       /* Huffman tables: 0 or 1, 2 or 3 */
};

/* What the segments before a scan say. */
struct picture {
    size_t width, height, count; /* count of components: 1 or 3 */
    struct component components[3];
    size_t restart;         /* units between restarts; 0: none */
    size_t scan;            /* where in the file the entropy-coded bytes start */
    bool app1;              /* whether there is an APP1 segment, which may hold an orientation */
    uint8_t steps[4][64];   /* quantisation tables, in zigzag order */
    uint8_t lengths[4][16]; /* Huffman codes of each length, of DC tables 0 and 1 and AC tables 0 and 1 */
    uint8_t symbols[4][256];
};

/* markers.c: whether a file is a baseline JPEG of one whole scan, in grey or YCbCr, that ends as it should. */
static bool read_segments(struct span file, struct picture *picture);

/* Pixels of one component under the window, row after row. */
struct plane {
    uint8_t *pixels;
    size_t stride;
    size_t side; /* pixels that a block's side becomes: 8, 6, 4, 3, 2 or 1 */
};

/* Units (MCU) that are wanted; not empty. */
struct window {
    size_t left, top, right, bottom;
};

/* scan.c: decodes the blocks under a window into planes; RESFLOW_DONE where the bits down to its end are sound. */
static int read_scan(struct span file, const struct picture *picture, struct window window,
                     const struct plane planes[3], struct memory *memory);

/* inverse.c: values of a group of blocks that are transformed together, one in a vector's lane: 64 coefficients, the
 * same one of all of them together, and a place for those that do not count. */
#define GROUP (65 * LANES)

/* Transforms `groups` of LANES blocks each, which lie side by side, into pixels from `target` on. Writes SPARE bytes
 * behind the last pixel of a row, too. */
static void inverse(const int16_t *coefficients, size_t groups, const float scale[64], uint8_t *target, size_t stride,
                    size_t side);

#endif
