/* What the library does, entry by entry: this header is the whole contract.
 *
 * Images are uint8, three bytes a pixel (red, green, blue), row after row without gaps unless a stride is named.
 * Coordinates count pixel edges: pixel i lies between i and i + 1. Output pixel (j, i) shows the source around
 * start + (j + 0.5, i + 0.5) * step; a negative step mirrors.
 *
 * No entry keeps state, starts a thread, prints or ends the process; each may run in many threads at once. Memory that an
 * entry asks for is given back before it returns. Bytes of a file may be anything: no read or write leaves the memory
 * that is named here.
 *
 * The library holds each entry once for every kind of processor: resflow_NAME_base and, on x86-64, resflow_NAME_v3
 * (AVX2, FMA) and resflow_NAME_v4 (AVX-512). All give the same bytes. resflow_level says what this processor runs. */
#ifndef RESFLOW_NATIVE_H
#define RESFLOW_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#define RESFLOW_INTERFACE 1 /* changes whenever an entry's arguments do */

enum { RESFLOW_DONE = 1, RESFLOW_NOT_TAKEN = 0, RESFLOW_NO_MEMORY = -1, RESFLOW_MISUSE = -2 };

/* BILINEAR and BICUBIC (a = -0.5) widen with the step, as Pillow's do, so that nothing aliases; NEAREST takes the pixel
 * at floor(start + (i + 0.5) * step). */
enum { RESFLOW_BILINEAR = 0, RESFLOW_BICUBIC = 1, RESFLOW_NEAREST = 2 };

#if !defined(RESFLOW_LEVEL)
#define ENTRY(name) resflow_##name##_base
#elif RESFLOW_LEVEL == 3
#define ENTRY(name) resflow_##name##_v3
#else
#define ENTRY(name) resflow_##name##_v4
#endif
#if defined(_WIN32)
#define RESFLOW_PUBLIC __declspec(dllexport)
#else
#define RESFLOW_PUBLIC __attribute__((visibility("default")))
#endif

/* RESFLOW_INTERFACE of the library, and the best kind of code that this processor runs: 0 base, 3 or 4. */
RESFLOW_PUBLIC int resflow_interface(void);
RESFLOW_PUBLIC int resflow_level(void);

/* Decodes the part of a JPEG that a box shows, and resizes it into the box.
 *
 *   data, size    the file
 *   out           rows x columns pixels, written inside the box alone
 *   box           left, top, right, bottom of the pixels that show the source: not empty, inside `out`
 *   start, step   source pixels, of the upright picture
 *   width, height of the upright picture
 *   orientation   EXIF's, 1 to 8; 0 takes only files that cannot tell another than 1
 *   oversample    pixels decoded for an output pixel on each axis, at least, before blocks are decoded smaller
 *   filter        RESFLOW_BILINEAR, ...
 *
 * DONE; NOT_TAKEN where the file is of a kind that is not taken here, or damaged (`out` may then be written in part);
 * NO_MEMORY; MISUSE where the box or an option is none. */
RESFLOW_PUBLIC int ENTRY(decode_window)(const uint8_t *data, size_t size, uint8_t *out, size_t rows, size_t columns,
                                        const int64_t box[4], double start_x, double start_y, double step_x,
                                        double step_y, int64_t width, int64_t height, int orientation,
                                        double oversample, int filter);

/* Resizes a source of height x width pixels into a box of `out`, exactly at fractional positions, and fills the rest of
 * it. The box may be empty; the source may not, unless the box is. DONE, NO_MEMORY or MISUSE. */
RESFLOW_PUBLIC int ENTRY(resize)(const uint8_t *source, size_t height, size_t width, uint8_t *out, size_t rows,
                                 size_t columns, const int64_t box[4], double start_x, double start_y, double step_x,
                                 double step_y, const uint8_t fill[3], int filter);

/* Samples an intermediate under a turned map, edges repeated, with a crisp outline; writes all of `out`.
 *
 *   source        height x width pixels: a source image, scaled, or a part of that
 *   inverse       3 x 3, row by row: output to source coordinates
 *   source_width, source_height  of the whole image, unscaled; pixels whose centres fall outside are filled
 *   scale         intermediate pixels for a source pixel along x and y
 *   origin        left top corner of the intermediate on the scaled source
 *
 * DONE or MISUSE. */
RESFLOW_PUBLIC int ENTRY(warp)(const uint8_t *source, size_t height, size_t width, uint8_t *out, size_t rows,
                               size_t columns, const double inverse[9], double source_width, double source_height,
                               const double scale[2], const int64_t origin[2], const uint8_t fill[3], int filter);

/* Fills what lies outside a box, which may be empty, with a colour. DONE or MISUSE. */
RESFLOW_PUBLIC int ENTRY(fill_outside)(uint8_t *out, size_t rows, size_t columns, const int64_t box[4],
                                       const uint8_t fill[3]);

/* Pixels into planes: out[c][y][x] = table[c][source[y][x][c]]; the source's rows lie `stride` bytes apart. DONE. */
RESFLOW_PUBLIC int ENTRY(to_float_planes)(const uint8_t *source, size_t height, size_t width, ptrdiff_t stride,
                                          const float table[3 * 256], float *out);

/* The same without a table: bytes stay bytes. */
RESFLOW_PUBLIC int ENTRY(to_byte_planes)(const uint8_t *source, size_t height, size_t width, ptrdiff_t stride,
                                         uint8_t *out);

#endif
