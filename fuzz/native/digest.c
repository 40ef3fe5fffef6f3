/* Prints a digest of what all entries make of JPEGs: DIGEST FILE... The same on every machine; compiled for another one
 * with zig, it runs under qemu-user there. */
#include <stdio.h>

#include "../../resflow/decode/native/all.c"

#define ROWS_OUT 64
#define COLUMNS_OUT 96
#define PIXELS_OUT (ROWS_OUT * COLUMNS_OUT * 3)

static uint64_t digest = 14695981039346656037U; /* FNV-1a */

static void add(const void *from, size_t size) {
    const uint8_t *bytes = from;
    for (size_t i = 0; i < size; i++) digest = (digest ^ bytes[i]) * 1099511628211U;
}

static int add_file(struct span file, int filter, int size) {
    static uint8_t out[PIXELS_OUT], again[PIXELS_OUT];
    static float planes[PIXELS_OUT], table[768];
    const int64_t box[4] = {3, 2, 90, 61}, origin[2] = {0, 0};
    const uint8_t fill[3] = {1, 2, 3};
    const double turn[9] = {1.1, 0.3, -3, -0.4, 0.9, 2, 0, 0, 1}, scale[2] = {1, 1};
    struct picture picture;
    if (!read_segments(file, &picture)) return 0;
    for (size_t k = 0; k < 768; k++) table[k] = (float)k / 255;
    memset(out, 0, sizeof out);
    const int done = ENTRY(decode_window)(file.data, file.size, out, ROWS_OUT, COLUMNS_OUT, box, 1.7, 2.9, size * 0.7,
                                          size * 0.6, (int64_t)picture.width, (int64_t)picture.height, 1, 1.5, filter);
    add(out, sizeof out);
    ENTRY(resize)(out, ROWS_OUT, COLUMNS_OUT, again, ROWS_OUT, COLUMNS_OUT, box, 0.4, 0.2, size * 0.35, size * 0.45, fill,
                  filter);
    add(again, sizeof again);
    ENTRY(warp)(again, ROWS_OUT, COLUMNS_OUT, out, ROWS_OUT, COLUMNS_OUT, turn, COLUMNS_OUT, ROWS_OUT, scale, origin, fill,
                filter);
    add(out, sizeof out);
    ENTRY(to_float_planes)(out, ROWS_OUT, COLUMNS_OUT, COLUMNS_OUT * 3, table, planes);
    add(planes, sizeof planes);
    return done == RESFLOW_DONE;
}

int main(int argc, char **argv) {
    static uint8_t data[1 << 22];
    int done = 0;
    for (int k = 1; k < argc; k++) {
        FILE *file = fopen(argv[k], "rb");
        if (!file) return 2;
        const struct span bytes = {data, fread(data, 1, sizeof data, file)};
        fclose(file);
        for (int filter = 0; filter < 3; filter++) {
            for (int size = 1; size < 9; size++) done += add_file(bytes, filter, size);
        }
    }
    printf("%d decoded, %016llx\n", done, (unsigned long long)digest);
    return 0;
}
