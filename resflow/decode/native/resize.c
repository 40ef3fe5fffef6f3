/* Pixels that are decoded already: resized, and what lies around them filled. */
#include "native.h"
#include "vectors.h"
#include "weights.h"

static void fill_pixels(uint8_t *to, size_t count, const uint8_t fill[3]) {
    for (size_t j = 0; j < count; j++) memcpy(to + 3 * j, fill, 3);
}

int ENTRY(fill_outside)(uint8_t *out, size_t rows, size_t columns, const int64_t box[4], const uint8_t fill[3]) {
    if (!is_inside(box, rows, columns)) return RESFLOW_MISUSE;
    const bool none = is_empty(box);
    const size_t left = none ? columns : (size_t)box[0], right = none ? columns : (size_t)box[2];
    for (size_t i = 0; i < rows; i++) {
        uint8_t *row = out + i * columns * 3;
        if (none || (int64_t)i < box[1] || (int64_t)i >= box[3]) {
            fill_pixels(row, columns, fill);
        } else {
            fill_pixels(row, left, fill);
            fill_pixels(row + 3 * right, columns - right, fill);
        }
    }
    return RESFLOW_DONE;
}

/* `count` bytes of each of `taps` rows, weighed and added. */
static void blend_lines(const uint8_t *from, size_t stride, const float *weights, size_t taps, float *line,
                        size_t count) {
    size_t x = 0;
    for (; x + 2 * LANES <= count; x += 2 * LANES) {
        const uint8_t *pixels = from + x;
        vec a = splat(0), b = a;
        for (size_t k = 0; k < taps; k++, pixels += stride) {
            a = muladd(splat(weights[k]), widen(pixels), a);
            b = muladd(splat(weights[k]), widen(pixels + LANES), b);
        }
        store(line + x, a);
        store(line + x + LANES, b);
    }
    for (; x < count; x += LANES) { /* a source ends with its last pixel: nothing may be read behind it */
        const size_t left = count - x < LANES ? count - x : LANES;
        uint8_t last[LANES] = {0};
        vec a = splat(0);
        for (size_t k = 0; k < taps; k++) {
            memcpy(last, from + k * stride + x, left);
            a = muladd(splat(weights[k]), widen(last), a);
        }
        float values[LANES];
        store(values, a);
        memcpy(line + x, values, left * sizeof(float));
    }
}

/* One row: red, green and blue of a pixel, and a fourth value that nobody needs, are blended together. */
static void blend_pixels(const float *line, const struct axis *axis, uint8_t *out) {
    for (size_t j = 0; j < axis->count; j++, out += 3) {
        const float *from = line + 3 * (axis->low[j] - axis->first), *weights = axis->weights + j * axis->most;
        vec4 sum = {0.5F, 0.5F, 0.5F, 0.5F};
        for (size_t k = 0; k < axis->taps[j]; k++, from += 3) {
            vec4 pixel;
            memcpy(&pixel, from, sizeof pixel);
            sum = muladd4(weights[k] - (vec4){0}, pixel, sum);
        }
        for (size_t c = 0; c < 3; c++) out[c] = (uint8_t)(sum[c] > 0 ? (sum[c] < 255 ? sum[c] : 255) : 0);
    }
}

int ENTRY(resize)(const uint8_t *source, size_t height, size_t width, uint8_t *out, size_t rows, size_t columns,
                  const int64_t box[4], double start_x, double start_y, double step_x, double step_y,
                  const uint8_t fill[3], int filter) {
    if (!is_filter(filter) || ENTRY(fill_outside)(out, rows, columns, box, fill) != RESFLOW_DONE) return RESFLOW_MISUSE;
    if (is_empty(box)) return RESFLOW_DONE;
    if (!height || !width) return RESFLOW_MISUSE;
    const size_t left = (size_t)box[0], top = (size_t)box[1];
    struct memory memory = {.count = 0};
    const struct axis x = make_axis(start_x, step_x, left, (size_t)box[2] - left, width, filter, &memory);
    const struct axis y = make_axis(start_y, step_y, top, (size_t)box[3] - top, height, filter, &memory);
    const size_t span = memory.failed ? 0 : 3 * (x.end - x.first);
    float *line = take(&memory, span + 1, sizeof *line); /* the last pixel's fourth value lies behind it */
    if (!memory.failed) {
        line[span] = 0;
        for (size_t i = 0; i < y.count; i++) {
            const uint8_t *from = source + (y.low[i] * width + x.first) * 3;
            blend_lines(from, 3 * width, y.weights + i * y.most, y.taps[i], line, span);
            blend_pixels(line, &x, out + ((top + i) * columns + left) * 3);
        }
    }
    const int done = memory.failed ? RESFLOW_NO_MEMORY : RESFLOW_DONE;
    give_back(&memory);
    return done;
}
