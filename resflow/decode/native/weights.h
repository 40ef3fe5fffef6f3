/* Which source pixels an output pixel is made of, along one axis. */
#ifndef RESFLOW_WEIGHTS_H
#define RESFLOW_WEIGHTS_H

#include "memory.h"

#define NUDGE 5e-7 /* positions are decided at six decimals, so that noise does not move them to a neighbour */

struct axis {
    size_t count;        /* of output pixels; at least 1 */
    size_t most;         /* weights of each; `taps` of them count, the others are 0 */
    float *weights;      /* count * most */
    size_t *low, *taps;  /* of each: the first source pixel and how many, at least 1; all below `size` */
    size_t first, end;   /* of all: the first source pixel, and one more than the last */
};

/* The value, kept within two others; the lower one for what is no number. */
static inline double limited(double value, double low, double high) {
    return value > low ? (value < high ? value : high) : low;
}

/* The pixel of `size` that a position lies in, or the nearest one. */
static inline size_t pixel_at(double position, size_t size) {
    return (size_t)limited(position, 0, (double)(size - 1));
}

/* Output pixels `from` to `from + count` of an axis; source windows are cut to `size` pixels and weighed up. */
static struct axis make_axis(double start, double step, size_t from, size_t count, size_t size, int filter,
                             struct memory *memory);

/* The same over a plane that is stored at half the size, as libjpeg enlarges it: an enlarged pixel is three quarters its
 * own and one quarter the neighbour on its side; or all its own (not smooth), as in pictures too narrow for that. */
static struct axis fold_axis(const struct axis *axis, size_t size, bool smooth, struct memory *memory);

#endif
