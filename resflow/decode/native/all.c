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

int resflow_level(void) {
#if defined(__x86_64__)
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))) return 0;
    const int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return wide ? 4 : 3;
#else
    return 0;
#endif
}
#endif
