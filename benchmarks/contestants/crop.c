/* What libjpeg-turbo gives at best: the window's rows and columns at the least DCT scale that has the output's pixels,
 * then a plain separable antialiased bilinear resize. A limit for benchmarks/peers.py; its input is trusted. */

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

struct failure {
    struct jpeg_error_mgr base;
    jmp_buf back;
};

static void fail(j_common_ptr info) { longjmp(((struct failure *)info->err)->back, 1); }
static void quiet(j_common_ptr info, int level) { (void)info, (void)level; }

struct tap {
    int first, count;
    float *weight;
};

/* Weights of `out` pixels over `size` samples, of which the window is [start, start + length). */
static struct tap *taps(double start, double length, int size, int out) {
    double step = length / out, support = step > 1 ? step : 1;
    int most = (int)ceil(2 * support) + 2;
    struct tap *all = malloc((size_t)out * sizeof *all);
    float *weights = malloc((size_t)out * (size_t)most * sizeof *weights);
    for (int i = 0; i < out; i++) {
        double centre = start + (i + 0.5) * step, sum = 0;
        int from = (int)floor(centre - support + 0.5), to = (int)floor(centre + support + 0.5);
        from = from < 0 ? 0 : from > size - 1 ? size - 1 : from;
        to = to > size ? size : to <= from ? from + 1 : to;
        all[i] = (struct tap){from, to - from, weights + (size_t)i * (size_t)most};
        for (int k = from; k < to; k++) {
            double weight = 1 - fabs(k + 0.5 - centre) / support;
            sum += all[i].weight[k - from] = weight > 0 ? (float)weight : 0;
        }
        for (int k = 0; k < to - from; k++) all[i].weight[k] = sum > 0 ? (float)(all[i].weight[k] / sum) : 1.0f / (to - from);
    }
    return all;
}

/* Decodes the window (x, y, width, height in pixels of the source; width 0: the whole) into out[side][side][3].
 * Returns 0, or 1 where libjpeg-turbo refuses the file. */
__attribute__((visibility("default"))) int crop(
    const uint8_t *data, size_t length, double x, double y, double width, double height, int side, uint8_t *out) {
    struct jpeg_decompress_struct info;
    struct failure failure;
    uint8_t *volatile row = NULL;
    float *volatile rows = NULL;
    info.err = jpeg_std_error(&failure.base);
    failure.base.error_exit = fail;
    failure.base.emit_message = quiet;
    if (setjmp(failure.back)) {
        jpeg_destroy_decompress(&info);
        free(row), free(rows);
        return 1;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, data, length);
    jpeg_read_header(&info, TRUE);
    if (width == 0) x = y = 0, width = info.image_width, height = info.image_height;
    unsigned scale = 1;
    while (scale < 8 && (width * scale < side * 8.0 || height * scale < side * 8.0)) scale *= 2;
    info.scale_num = scale, info.scale_denom = 8, info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    double factor = scale / 8.0, left = x * factor, top = y * factor, wide = width * factor, high = height * factor;
    double margin = wide / side + 2;
    JDIMENSION first = left > margin ? (JDIMENSION)(left - margin) : 0;
    JDIMENSION columns = (JDIMENSION)ceil(left + wide + margin) - first;
    if (first + columns > info.output_width) columns = info.output_width - first;
    jpeg_crop_scanline(&info, &first, &columns);
    margin = high / side + 2;
    int above = top > margin ? (int)(top - margin) : 0, end = (int)ceil(top + high + margin);
    if (end > (int)info.output_height) end = (int)info.output_height;
    if (above) jpeg_skip_scanlines(&info, (JDIMENSION)above);
    int count = end - above;
    struct tap *across = taps(left - first, wide, (int)columns, side), *down = taps(top - above, high, count, side);
    row = malloc((size_t)info.output_width * 3);
    rows = malloc((size_t)count * (size_t)side * 3 * sizeof *rows);
    for (int r = 0; r < count; r++) {
        JSAMPROW one = row;
        jpeg_read_scanlines(&info, &one, 1);
        float *to = rows + (size_t)r * (size_t)side * 3;
        for (int i = 0; i < side; i++, to += 3) {
            const uint8_t *from = row + across[i].first * 3;
            float red = 0, green = 0, blue = 0;
            for (int k = 0; k < across[i].count; k++, from += 3) {
                float weight = across[i].weight[k];
                red += weight * from[0], green += weight * from[1], blue += weight * from[2];
            }
            to[0] = red, to[1] = green, to[2] = blue;
        }
    }
    float *sums = malloc((size_t)side * 3 * sizeof *sums);
    for (int i = 0; i < side; i++) {
        for (int j = 0; j < side * 3; j++) sums[j] = 0.5f;
        for (int k = 0; k < down[i].count; k++) {
            const float *from = rows + (size_t)(down[i].first + k) * (size_t)side * 3;
            float weight = down[i].weight[k];
            for (int j = 0; j < side * 3; j++) sums[j] += weight * from[j];
        }
        for (int j = 0; j < side * 3; j++) out[i * side * 3 + j] = (uint8_t)sums[j];
    }
    free(sums), free(across[0].weight), free(across), free(down[0].weight), free(down);
    jpeg_abort_decompress(&info);
    jpeg_destroy_decompress(&info);
    free(row), free(rows);
    return 0;
}
