/* Everything, compiled once for each kind of processor: `build.py` says with which flags. As one unit the compiler
 * sees all of it, and only the entries have names outside. */
#include "markers.c"
#include "huffman.c"
#include "inverse.c"
#include "scan.c"
#include "weights.c"
#include "window.c"
#include "resize.c"
#include "warp.c"
#include "planes.c"

#ifndef RESFLOW_LEVEL /* once */
int resflow_interface(void) { return RESFLOW_INTERFACE; }

#if defined(__x86_64__)
#include <cpuid.h>

/* Asked of the processor itself: __builtin_cpu_supports finds nothing in libraries that zig makes.
 * Source: Intel's Software Developer's Manual, volume 2, CPUID; volume 1, 14.3 and 15.2. */
int resflow_level(void) {
    const unsigned fma = 1U << 12, saves = 1U << 27;                          /* leaf 1, ecx */
    const unsigned avx2 = 1U << 5 | 1U << 3 | 1U << 8;                        /* leaf 7, ebx: AVX2, BMI1, BMI2 */
    const unsigned avx512 = 1U << 16 | 1U << 17 | 1U << 30 | 1U << 31;        /* F, DQ, BW, VL */
    unsigned a, b, c, d, kept, rest;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & fma) == 0 || (c & saves) == 0) return 0;
    __asm__ volatile("xgetbv" : "=a"(kept), "=d"(rest) : "c"(0)); /* registers that the system keeps */
    if ((kept & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & avx2) != avx2) return 0;
    return (kept & 0xE6) == 0xE6 && (b & avx512) == avx512 ? 4 : 3;
}
#else
int resflow_level(void) { return 0; }
#endif
#endif
