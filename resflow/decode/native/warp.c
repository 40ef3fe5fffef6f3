/* Pixels under a turned map: rotation and shear. */
#include <math.h>

#include "native.h"
#include "weights.h"

struct sheet { /* an image whose edges are repeated */
    const uint8_t *pixels;
    size_t rows, columns;
};

static const uint8_t *pixel(struct sheet sheet, double y, double x) {
    return sheet.pixels + (pixel_at(y, sheet.rows) * sheet.columns + pixel_at(x, sheet.columns)) * 3;
}

static void sample_nearest(struct sheet sheet, double x, double y, uint8_t *out) {
    memcpy(out, pixel(sheet, floor(y + NUDGE), floor(x + NUDGE)), 3);
}

static void sample_bilinear(struct sheet sheet, double x, double y, uint8_t *out) {
    const double u = limited(x - 0.5, 0, (double)sheet.columns - 1), v = limited(y - 0.5, 0, (double)sheet.rows - 1);
    const size_t left = (size_t)u, top = (size_t)v, right = left + 1 < sheet.columns ? 3 : 0;
    const size_t below = top + 1 < sheet.rows ? 3 * sheet.columns : 0;
    const double part_x = u - (double)left, part_y = v - (double)top;
    const uint8_t *a = sheet.pixels + (top * sheet.columns + left) * 3, *b = a + right, *c = a + below, *d = c + right;
    for (size_t k = 0; k < 3; k++) {
        const double upper = a[k] * (1 - part_x) + b[k] * part_x, lower = c[k] * (1 - part_x) + d[k] * part_x;
        out[k] = (uint8_t)(upper * (1 - part_y) + lower * part_y + 0.5);
    }
}

/* Weights of four neighbours, `part` behind the second. Source: Pillow's transform (Keys' cubic with a = -1). */
static void cubic_weights(double part, double weights[4]) {
    weights[0] = part * (-1 + part * (2 - part));
    weights[1] = 1 + part * part * (part - 2);
    weights[2] = part * (1 + part * (1 - part));
    weights[3] = part * part * (part - 1);
}

static void sample_bicubic(struct sheet sheet, double x, double y, uint8_t *out) {
    const double left = floor(x - 0.5), top = floor(y - 0.5);
    double across[4], down[4], sums[3] = {0.5, 0.5, 0.5};
    cubic_weights(x - 0.5 - left, across);
    cubic_weights(y - 0.5 - top, down);
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            const uint8_t *at = pixel(sheet, top + i - 1, left + j - 1);
            for (size_t k = 0; k < 3; k++) sums[k] += down[i] * across[j] * at[k];
        }
    }
    for (size_t k = 0; k < 3; k++) out[k] = (uint8_t)limited(sums[k], 0, 255);
}

int ENTRY(warp)(const uint8_t *source, size_t height, size_t width, uint8_t *out, size_t rows, size_t columns,
                const double inverse[9], double source_width, double source_height, const double scale[2],
                const int64_t origin[2], const uint8_t fill[3], int filter) {
    if (!is_filter(filter)) return RESFLOW_MISUSE;
    const struct sheet sheet = {source, height, width};
    const bool empty = !height || !width;
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++, out += 3) {
            const double x = inverse[0] * ((double)j + 0.5) + inverse[1] * ((double)i + 0.5) + inverse[2];
            const double y = inverse[3] * ((double)j + 0.5) + inverse[4] * ((double)i + 0.5) + inverse[5];
            const bool inside = x >= -NUDGE && x < source_width - NUDGE && y >= -NUDGE && y < source_height - NUDGE;
            if (!inside || empty) {
                memcpy(out, fill, 3);
                continue;
            }
            const double u = x * scale[0] - (double)origin[0], v = y * scale[1] - (double)origin[1];
            if (filter == RESFLOW_NEAREST) {
                sample_nearest(sheet, u, v, out);
            } else if (filter == RESFLOW_BICUBIC) {
                sample_bicubic(sheet, u, v, out);
            } else {
                sample_bilinear(sheet, u, v, out);
            }
        }
    }
    return RESFLOW_DONE;
}
