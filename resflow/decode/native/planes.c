/* Pixels into planes, as torch has images. */
#include "native.h"

int ENTRY(to_float_planes)(const uint8_t *source, size_t height, size_t width, ptrdiff_t stride,
                           const float table[3 * 256], float *out) {
    float *red = out, *green = out + height * width, *blue = green + height * width;
    for (size_t i = 0; i < height; i++, source += stride) {
        for (size_t j = 0; j < width; j++) {
            *red++ = table[source[3 * j]];
            *green++ = table[256 + source[3 * j + 1]];
            *blue++ = table[512 + source[3 * j + 2]];
        }
    }
    return RESFLOW_DONE;
}

int ENTRY(to_byte_planes)(const uint8_t *source, size_t height, size_t width, ptrdiff_t stride, uint8_t *out) {
    uint8_t *red = out, *green = out + height * width, *blue = green + height * width;
    for (size_t i = 0; i < height; i++, source += stride) {
        for (size_t j = 0; j < width; j++) {
            *red++ = source[3 * j];
            *green++ = source[3 * j + 1];
            *blue++ = source[3 * j + 2];
        }
    }
    return RESFLOW_DONE;
}
