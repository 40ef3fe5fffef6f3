/* One input of a fuzzer for the compiled decoder: eight bytes of options, then a JPEG. All of the library is compiled in
 * here, so that coverage and sanitizers see it. */
#include "../../resflow/decode/native/all.c"

#define OPTIONS 8
#define LARGEST 1024 /* pixels on an axis: more take long, and no other way */

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

/* The size that the first frame header tells, as Python's reader of headers would. */
static bool find_size(const uint8_t *file, size_t size, int64_t *width, int64_t *height) {
    for (size_t at = 0; at + 9 < size; at++) {
        if (file[at] == 0xFF && (file[at + 1] == 0xC0 || file[at + 1] == 0xC1)) {
            *height = file[at + 5] << 8 | file[at + 6];
            *width = file[at + 7] << 8 | file[at + 8];
            return *width <= LARGEST && *height <= LARGEST;
        }
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    int64_t width, height;
    if (size < OPTIONS || !find_size(input + OPTIONS, size - OPTIONS, &width, &height)) return 0;
    /* Exactly as large as they are said to be, so that any byte beyond is seen. */
    const size_t length = size - OPTIONS, rows = 1 + input[0] % 40, columns = 1 + input[1] % 40;
    uint8_t *file = malloc(length ? length : 1), *out = malloc(rows * columns * 3), *again = malloc(rows * columns * 3);
    const int64_t left = input[2] % columns, top = input[3] % rows;
    const int64_t box[4] = {left, top, (int64_t)columns, (int64_t)rows};
    const int orientation = input[4] % 9, filter = input[4] / 9 % 3;
    const bool swapped = orientation >= 5;
    const double step_x = ((double)input[5] - 100) / 9, step_y = ((double)input[6] + 1) / 20;
    const double oversample = input[7] & 1 ? 1.5 : 1e9, start = (double)input[7] / 4 - 9;
    const uint8_t fill[3] = {1, 2, 3};
    if (file && out && again) {
        memcpy(file, input + OPTIONS, length);
        const int done = ENTRY(decode_window)(file, length, out, rows, columns, box, start, start, step_x, step_y,
                                              swapped ? height : width, swapped ? width : height, orientation,
                                              oversample, filter);
        if (done == RESFLOW_DONE && ENTRY(fill_outside)(out, rows, columns, box, fill) == RESFLOW_DONE) {
            const double turn[9] = {step_y, 0.3, start, -0.4, step_x, 2, 0, 0, 1}, scale[2] = {1, 1};
            const int64_t origin[2] = {0, 0};
            ENTRY(resize)(out, rows, columns, again, rows, columns, box, start, start, step_x, step_y, fill, filter);
            ENTRY(warp)(again, rows, columns, out, rows, columns, turn, 40, 40, scale, origin, fill, filter);
        }
    }
    free(file);
    free(out);
    free(again);
    return 0;
}
