/* From a file's bytes to the pixels of a box: which blocks are needed, and how their pixels become red, green, blue. */
#include <math.h>

#include "jpeg.h"
#include "native.h"
#include "weights.h"

#define ROWS 8            /* lines that are resized along x together: each weight is loaded once for all of them */
#define STRIP (4 * LANES) /* pixels that are resized along y together */

static size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

/* One row of a plane resized along y: `span` values rounded up to STRIP, from pixels that may be read as far. */
static void blend_rows(const uint8_t *from, size_t stride, const float *weights, size_t taps, float *line, size_t span) {
    for (size_t x = 0; x < span; x += STRIP) {
        const uint8_t *pixels = from + x;
        vec a = splat(0), b = a, c = a, d = a;
        for (size_t k = 0; k < taps; k++, pixels += stride) {
            const vec weight = splat(weights[k]);
            a = muladd(weight, widen(pixels), a);
            b = muladd(weight, widen(pixels + LANES), b);
            c = muladd(weight, widen(pixels + 2 * LANES), c);
            d = muladd(weight, widen(pixels + 3 * LANES), d);
        }
        store(line + x, a);
        store(line + x + LANES, b);
        store(line + x + 2 * LANES, c);
        store(line + x + 3 * LANES, d);
    }
}

/* Weights by block of LANES outputs, by pixel that any of them reads, by output; zero where one does not read it. */
struct columns {
    size_t blocks;
    size_t *first;   /* pixels, from the axis' first one on */
    size_t *starts;  /* blocks + 1: where each block's weights start, in vectors */
    float *weights;
};

static struct columns make_columns(const struct axis *axis, struct memory *memory) {
    struct columns columns = {.blocks = (axis->count + LANES - 1) / LANES};
    columns.first = take(memory, columns.blocks, sizeof *columns.first);
    columns.starts = take(memory, columns.blocks + 1, sizeof *columns.starts);
    if (memory->failed) return columns;
    columns.starts[0] = 0;
    for (size_t block = 0; block < columns.blocks; block++) {
        size_t first = SIZE_MAX, end = 0;
        for (size_t j = block * LANES; j < (block + 1) * LANES && j < axis->count; j++) {
            if (axis->low[j] < first) first = axis->low[j];
            if (axis->low[j] + axis->taps[j] > end) end = axis->low[j] + axis->taps[j];
        }
        columns.first[block] = first - axis->first;
        columns.starts[block + 1] = columns.starts[block] + end - first;
    }
    const size_t total = columns.starts[columns.blocks];
    columns.weights = take(memory, total, LANES * sizeof(float));
    if (memory->failed) return columns;
    memset(columns.weights, 0, total * LANES * sizeof(float));
    for (size_t j = 0; j < axis->count; j++) {
        const size_t block = j / LANES, from = axis->low[j] - axis->first - columns.first[block];
        float *to = columns.weights + (columns.starts[block] + from) * LANES + j % LANES;
        for (size_t k = 0; k < axis->taps[j]; k++) to[k * LANES] = axis->weights[j * axis->most + k];
    }
    return columns;
}

/* ROWS lines of `length` values resized along x, into ROWS lines of blocks * LANES values. */
static void blend_columns(const float *lines, size_t length, const struct columns *columns, float *out) {
    const size_t over = columns->blocks * LANES;
    for (size_t block = 0; block < columns->blocks; block++, out += LANES) {
        const float *from = lines + columns->first[block];
        const float *weights = columns->weights + columns->starts[block] * LANES;
        const float *end = columns->weights + columns->starts[block + 1] * LANES;
        vec a = splat(0), b = a, c = a, d = a, e = a, f = a, g = a, h = a;
        for (; weights < end; weights += LANES, from++) {
            const vec by = load(weights);
            a = muladd(splat(from[0]), by, a);
            b = muladd(splat(from[length]), by, b);
            c = muladd(splat(from[2 * length]), by, c);
            d = muladd(splat(from[3 * length]), by, d);
            e = muladd(splat(from[4 * length]), by, e);
            f = muladd(splat(from[5 * length]), by, f);
            g = muladd(splat(from[6 * length]), by, g);
            h = muladd(splat(from[7 * length]), by, h);
        }
        store(out, a);
        store(out + over, b);
        store(out + 2 * over, c);
        store(out + 3 * over, d);
        store(out + 4 * over, e);
        store(out + 5 * over, f);
        store(out + 6 * over, g);
        store(out + 7 * over, h);
    }
}

/* Brightness and colour differences, all about 128, into bytes; `count` is a multiple of LANES, and SPARE bytes behind
 * them are written, too. Source: ITU-T T.871, 7. */
static void to_rgb(const float *y, const float *blue, const float *red, size_t count, uint8_t *out) {
    for (size_t i = 0; i < count; i += LANES) {
        const vec light = load(y + i) - 128, b = load(blue + i) - 128, r = load(red + i) - 128;
        const vec green = muladd(r, splat(-0.714136286F), muladd(b, splat(-0.344136286F), light));
        const ivec low = to_byte(muladd(r, splat(1.402F), light)), high = to_byte(muladd(b, splat(1.772F), light));
        put_3(out + 3 * i, low | to_byte(green) << 8 | high << 16);
    }
}

/* A placement, along the axes of the picture as it is stored. */
struct view {
    double start_x, start_y, step_x, step_y, oversample;
    size_t left, top, columns, rows; /* of the box */
    bool swapped;                    /* the output's rows are the picture's columns */
    int filter;
};

/* How a component's pixels become lines of the output. */
struct source {
    struct plane plane;
    size_t left, top; /* the plane's first pixel under the window */
    const struct axis *x, *y;
    struct columns columns;
    float *out; /* ROWS lines */
};

static int draw(const struct source sources[3], size_t count, const struct view *view, uint8_t *out, size_t width,
                struct memory *memory) {
    const size_t padded = sources[0].columns.blocks * LANES;
    size_t length = 0;
    for (size_t c = 0; c < count; c++) {
        const size_t span = round_up(sources[c].x->end - sources[c].x->first, STRIP);
        if (span > length) length = span;
    }
    float *lines = take(memory, ROWS * length, sizeof *lines);
    uint8_t *rgb = take(memory, 3 * padded + SPARE, 1);
    if (memory->failed) return RESFLOW_NO_MEMORY;
    memset(lines, 0, ROWS * length * sizeof *lines);
    for (size_t upper = 0; upper < view->rows; upper += ROWS) {
        const size_t high = view->rows - upper < ROWS ? view->rows - upper : ROWS;
        for (size_t c = 0; c < count; c++) {
            const struct source *source = &sources[c];
            const size_t span = source->x->end - source->x->first, stride = source->plane.stride;
            for (size_t i = 0; i < high; i++) {
                const size_t row = source->y->low[upper + i] - source->top;
                const uint8_t *from = source->plane.pixels + row * stride + source->x->first - source->left;
                const float *weights = source->y->weights + (upper + i) * source->y->most;
                blend_rows(from, stride, weights, source->y->taps[upper + i], lines + i * length, span);
            }
            blend_columns(lines, length, &source->columns, source->out);
        }
        for (size_t i = 0; i < high; i++) {
            const size_t at = i * padded, row = view->top + upper + i;
            to_rgb(sources[0].out + at, sources[1].out + at, sources[2].out + at, padded, rgb);
            if (!view->swapped) {
                memcpy(out + (row * width + view->left) * 3, rgb, 3 * view->columns);
                continue;
            }
            for (size_t j = 0; j < view->columns; j++) memcpy(out + ((view->left + j) * width + row) * 3, rgb + 3 * j, 3);
        }
    }
    return RESFLOW_DONE;
}

static int decode_view(struct span file, const struct picture *picture, const struct view *view, uint8_t *out,
                       size_t width, struct memory *memory) {
    static const size_t smaller[] = {6, 4, 3, 2, 1};
    const size_t count = picture->count, across = picture->components[0].across, down = picture->components[0].down;
    const double step = fmin(fabs(view->step_x), fabs(view->step_y));
    size_t side = 8;
    for (size_t k = 0; k < 5 && view->filter != RESFLOW_NEAREST; k++) {
        if (step * (double)smaller[k] / 8 >= view->oversample) side = smaller[k];
    }
    /* Colour that was stored at half the size needs no second halving. */
    const bool twice = count == 3 && across == 2 && down == 2 && side <= 4, smooth = across == 1 || picture->width > 4;
    const size_t colour_side = twice ? 2 * side : side;

    const double factor = (double)side / 8;
    const size_t wide = (picture->width * side + 7) / 8, high = (picture->height * side + 7) / 8;
    struct axis x = make_axis(view->start_x * factor, view->step_x * factor, view->left, view->columns, wide,
                              view->filter, memory);
    struct axis y = make_axis(view->start_y * factor, view->step_y * factor, view->top, view->rows, high, view->filter,
                              memory);
    if (memory->failed) return RESFLOW_NO_MEMORY;
    struct axis colour_x = x, colour_y = y;
    if (count == 3 && across == 2 && !twice) {
        colour_x = fold_axis(&x, ((picture->width + 1) / 2 * side + 7) / 8, smooth, memory);
    }
    if (count == 3 && down == 2 && !twice) {
        colour_y = fold_axis(&y, ((picture->height + 1) / 2 * side + 7) / 8, smooth, memory);
    }

    /* The units under all of these, colour's neighbours with them. */
    const size_t unit_x = across * side, unit_y = down * side;
    const size_t right = x.end + 2 < wide ? x.end + 2 : wide, bottom = y.end + 2 < high ? y.end + 2 : high;
    const struct window window = {
        (x.first < 2 ? 0 : x.first - 2) / unit_x,
        (y.first < 2 ? 0 : y.first - 2) / unit_y,
        (right + unit_x - 1) / unit_x,
        (bottom + unit_y - 1) / unit_y,
    };
    struct plane planes[3];
    struct source sources[3];
    for (size_t c = 0; c < count; c++) {
        const struct component *component = &picture->components[c];
        const size_t own = c ? colour_side : side, lines = (window.bottom - window.top) * component->down * own;
        const size_t stride = round_up((window.right - window.left) * component->across * own, LANES * own) + SPARE;
        planes[c] = (struct plane){take(memory, lines * stride + STRIP, 1), stride, own};
        sources[c] = (struct source){
            .plane = planes[c],
            .left = window.left * component->across * own,
            .top = window.top * component->down * own,
            .x = c ? &colour_x : &x,
            .y = c ? &colour_y : &y,
            .columns = c == 2 ? sources[1].columns : make_columns(c ? &colour_x : &x, memory),
        };
    }
    const size_t padded = round_up(view->columns, LANES);
    for (size_t c = 0; c < 3; c++) {
        sources[c].out = take(memory, ROWS * padded, sizeof(float));
        for (size_t i = 0; c >= count && sources[c].out && i < ROWS * padded; i++) sources[c].out[i] = 128;
    }
    if (memory->failed) return RESFLOW_NO_MEMORY;
    const int read = read_scan(file, picture, window, planes, memory);
    return read == RESFLOW_DONE ? draw(sources, count, view, out, width, memory) : read;
}

/* Whether a box lies inside `rows` x `columns` pixels; an empty one does. */
static bool is_inside(const int64_t box[4], size_t rows, size_t columns) {
    if (box[0] >= box[2] || box[1] >= box[3]) return true;
    return box[0] >= 0 && box[1] >= 0 && (uint64_t)box[2] <= columns && (uint64_t)box[3] <= rows;
}

static bool is_empty(const int64_t box[4]) { return box[0] >= box[2] || box[1] >= box[3]; }

static bool is_filter(int filter) {
    return filter == RESFLOW_BILINEAR || filter == RESFLOW_BICUBIC || filter == RESFLOW_NEAREST;
}

int ENTRY(decode_window)(const uint8_t *data, size_t size, uint8_t *out, size_t rows, size_t columns,
                         const int64_t box[4], double start_x, double start_y, double step_x, double step_y,
                         int64_t width, int64_t height, int orientation, double oversample, int filter) {
    if (is_empty(box) || !is_inside(box, rows, columns) || orientation < 0 || orientation > 8 || !is_filter(filter)) {
        return RESFLOW_MISUSE;
    }
    const struct span file = {data, size};
    struct picture picture;
    if (!read_segments(file, &picture) || (orientation == 0 && picture.app1)) return RESFLOW_NOT_TAKEN;

    /* Turn the placement to the stored picture; from here on x and y are its axes. */
    const size_t left = (size_t)box[0], top = (size_t)box[1];
    struct view view = {start_x, start_y, step_x, step_y, oversample, left, top, (size_t)box[2] - left,
                        (size_t)box[3] - top, orientation >= 5, filter};
    if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7) {
        view.start_x = (double)width - start_x;
        view.step_x = -step_x;
    }
    if (orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8) {
        view.start_y = (double)height - start_y;
        view.step_y = -step_y;
    }
    if (view.swapped) {
        const struct view turned = view;
        view.start_x = turned.start_y;
        view.start_y = turned.start_x;
        view.step_x = turned.step_y;
        view.step_y = turned.step_x;
        view.left = turned.top;
        view.top = turned.left;
        view.columns = turned.rows;
        view.rows = turned.columns;
        const int64_t swap = width;
        width = height;
        height = swap;
    }
    if (width != (int64_t)picture.width || height != (int64_t)picture.height) return RESFLOW_NOT_TAKEN;
    struct memory memory = {.count = 0};
    const int done = decode_view(file, &picture, &view, out, columns, &memory);
    give_back(&memory);
    return done;
}
