#include "weights.h"

#include <math.h>
#include <string.h>

#include "native.h"

static double triangle(double x) { return x < 1 ? 1 - x : 0; }

/* Source: Keys, Cubic convolution interpolation for digital image processing, with a = -0.5. */
static double cubic(double x) {
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

static struct axis new_axis(size_t count, size_t most, struct memory *memory) {
    struct axis axis = {.count = count, .most = most, .first = SIZE_MAX, .end = 0};
    axis.low = take(memory, count, sizeof *axis.low);
    axis.taps = take(memory, count, sizeof *axis.taps);
    axis.weights = count > SIZE_MAX / most ? take(memory, SIZE_MAX, 2) : take(memory, count * most, sizeof(float));
    if (axis.weights) memset(axis.weights, 0, count * most * sizeof(float));
    return axis;
}

static void set_taps(struct axis *axis, size_t j, size_t low, size_t end) {
    axis->low[j] = low;
    axis->taps[j] = end - low;
    if (low < axis->first) axis->first = low;
    if (end > axis->end) axis->end = end;
}

static struct axis make_axis(double start, double step, size_t from, size_t count, size_t size, int filter,
                             struct memory *memory) {
    const double stretch = limited(fabs(step), 1, 1e9), reach = filter == RESFLOW_BICUBIC ? 2 * stretch : stretch;
    const size_t wide = (size_t)(2 * reach) + 3, most = wide < size ? wide : size;
    struct axis axis = new_axis(count, filter == RESFLOW_NEAREST ? 1 : most, memory);
    if (memory->failed) return axis;
    for (size_t j = 0; j < count; j++) {
        double centre = start + ((double)(from + j) + 0.5) * step;
        float *weights = axis.weights + j * axis.most;
        if (filter == RESFLOW_NEAREST) {
            const size_t pixel = pixel_at(floor(centre + NUDGE), size);
            weights[0] = 1;
            set_taps(&axis, j, pixel, pixel + 1);
            continue;
        }
        /* Beyond the edge, where what is left of the cubic may weigh nothing, or less: as at the edge. */
        if (filter == RESFLOW_BICUBIC) centre = limited(centre, 0, (double)size);
        const size_t low = pixel_at(floor(centre - reach + 0.5), size);
        const double last = limited(floor(centre + reach + 0.5), (double)low + 1, (double)size);
        size_t taps = (size_t)last - low;
        double total = 0;
        if (taps > axis.most) taps = axis.most; /* never: as many as `reach` spans */
        for (size_t k = 0; k < taps; k++) {
            const double distance = fabs((double)(low + k) + 0.5 - centre) / stretch;
            const double value = filter == RESFLOW_BICUBIC ? cubic(distance) : triangle(distance);
            weights[k] = (float)value;
            total += value;
        }
        if (!(total > 0)) { /* the centre lies half a pixel or more beyond the edge: repeat the edge */
            weights[0] = 1;
            total = 1;
            taps = 1;
        }
        for (size_t k = 0; k < taps; k++) weights[k] = (float)((double)weights[k] / total);
        set_taps(&axis, j, low, low + taps);
    }
    return axis;
}

static struct axis fold_axis(const struct axis *axis, size_t size, bool smooth, struct memory *memory) {
    const float side = smooth ? 0.25F : 0;
    struct axis folded = new_axis(axis->count, axis->most / 2 + 3, memory);
    if (memory->failed) return folded;
    for (size_t j = 0; j < axis->count; j++) {
        const size_t low = axis->low[j], before = low ? (low - 1) >> 1 : 0, first = before < size ? before : size - 1;
        const float *weights = axis->weights + j * axis->most;
        float *to = folded.weights + j * folded.most;
        size_t end = first;
        /* Pixels low - 1 to low + taps, halved: at most taps / 2 + 2 of them. */
        for (size_t k = 0; k < axis->taps[j]; k++) {
            const size_t pixel = low + k, half = pixel >> 1, near = half < size ? half : size - 1;
            const size_t left = near ? near - 1 : 0, right = near + 1 < size ? near + 1 : size - 1;
            const size_t far = pixel & 1 ? right : left;
            to[near - first] += (1 - side) * weights[k];
            to[far - first] += side * weights[k];
            if (near > end) end = near;
            if (far > end) end = far;
        }
        set_taps(&folded, j, first, end + 1);
    }
    return folded;
}
