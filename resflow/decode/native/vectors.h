/* Vectors of as many float32 as a register holds, and what generic C does not say of them well enough.
 *
 * Everything is written with the vector extensions that GCC and Clang share. The few intrinsics below are what GCC 12
 * makes thirty instructions of, or calls of a library (fma).
 *
 * Results are the same everywhere: `muladd` rounds once on every target, and -ffp-contract=off fuses nothing else. */
#ifndef RESFLOW_VECTORS_H
#define RESFLOW_VECTORS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#else
#define LANES 4
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float vec4 __attribute__((vector_size(16)));
typedef uint8_t bytes16 __attribute__((vector_size(16)));

static inline vec splat(float value) { return value - (vec){0}; }

static inline vec load(const float *from) {
    vec values;
    memcpy(&values, from, sizeof values);
    return values;
}

static inline void store(float *to, vec values) { memcpy(to, &values, sizeof values); }

/* muladd4(a, b, c): a * b + c of four, rounded once. */
#if defined(__FMA__)
static inline vec4 muladd4(vec4 a, vec4 b, vec4 c) { return _mm_fmadd_ps(a, b, c); }
#elif defined(__aarch64__)
static inline vec4 muladd4(vec4 a, vec4 b, vec4 c) { return (vec4)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
typedef double pair __attribute__((vector_size(16)));
typedef int64_t ipair __attribute__((vector_size(16)));
typedef float half __attribute__((vector_size(8)));

/* By double: the product is exact; the sum is rounded to odd, so that rounding it again, to float, is as if once.
 * Source: Boldo and Melquiond, Emulation of FMA and correctly rounded sums. */
static inline half muladd2(half a, half b, half c) {
    const pair product = __builtin_convertvector(a, pair) * __builtin_convertvector(b, pair);
    const pair other = __builtin_convertvector(c, pair), sum = product + other, part = sum - product;
    const pair error = (product - (sum - part)) + (other - part), zero = {0};
    ipair bits = (ipair)sum;
    const ipair odd = 0 - (bits & 1), away = (ipair)(error > zero) ^ (ipair)(sum > zero);
    bits += ((1 ^ away) - away) & (ipair)(error != zero) & ~odd;
    return __builtin_convertvector((pair)bits, half);
}

static inline vec4 muladd4_exactly(vec4 a, vec4 b, vec4 c) {
    half parts[3][2], made[2];
    vec4 all;
    memcpy(parts[0], &a, sizeof a);
    memcpy(parts[1], &b, sizeof b);
    memcpy(parts[2], &c, sizeof c);
    made[0] = muladd2(parts[0][0], parts[1][0], parts[2][0]);
    made[1] = muladd2(parts[0][1], parts[1][1], parts[2][1]);
    memcpy(&all, made, sizeof all);
    return all;
}

#if defined(__SSE2__)
/* Rounding twice differs from rounding once only where the sum, as a double, lies half-way between two floats: hardly
 * ever. */
static inline vec4 muladd4(vec4 a, vec4 b, vec4 c) {
    const __m128d low = _mm_add_pd(_mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b)), _mm_cvtps_pd(c));
    const __m128d high = _mm_add_pd(_mm_mul_pd(_mm_cvtps_pd(_mm_movehl_ps(a, a)), _mm_cvtps_pd(_mm_movehl_ps(b, b))),
                                    _mm_cvtps_pd(_mm_movehl_ps(c, c)));
    const __m128i last = _mm_castps_si128(_mm_shuffle_ps(_mm_castpd_ps(low), _mm_castpd_ps(high), 0x88));
    const __m128i rest = _mm_and_si128(last, _mm_set1_epi32(0x1FFFFFFF));
    if (_mm_movemask_epi8(_mm_cmpeq_epi32(rest, _mm_set1_epi32(0x10000000)))) return muladd4_exactly(a, b, c);
    return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
}
#else
static inline vec4 muladd4(vec4 a, vec4 b, vec4 c) { return muladd4_exactly(a, b, c); }
#endif
#endif

/* muladd: a * b + c, rounded once. widen, widen_short: LANES bytes or int16 as float32. bounded: kept within 0 and 255. */
#if LANES == 16
static inline vec muladd(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec widen(const uint8_t *from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i_u *)from)));
}
static inline vec widen_short(const int16_t *from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i_u *)from)));
}
static inline vec bounded(vec x) { return _mm512_min_ps(_mm512_max_ps(x, splat(0)), splat(255)); }
#elif LANES == 8
static inline vec muladd(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec widen(const uint8_t *from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)from)));
}
static inline vec widen_short(const int16_t *from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i_u *)from)));
}
static inline vec bounded(vec x) { return _mm256_min_ps(_mm256_max_ps(x, splat(0)), splat(255)); }
#else
static inline vec muladd(vec a, vec b, vec c) { return muladd4(a, b, c); }
#if defined(__SSE2__)
static inline vec widen(const uint8_t *from) {
    int32_t four;
    memcpy(&four, from, sizeof four);
    const __m128i zero = _mm_setzero_si128(), bytes = _mm_unpacklo_epi8(_mm_cvtsi32_si128(four), zero);
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(bytes, zero));
}
static inline vec widen_short(const int16_t *from) {
    const __m128i four = _mm_loadl_epi64((const __m128i_u *)from);
    return _mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(four, four), 16));
}
#elif defined(__aarch64__)
static inline vec widen(const uint8_t *from) {
    uint32_t four;
    memcpy(&four, from, sizeof four);
    return (vec)vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))))));
}
static inline vec widen_short(const int16_t *from) { return (vec)vcvtq_f32_s32(vmovl_s16(vld1_s16(from))); }
#else
static inline vec widen(const uint8_t *from) {
    const ivec wide = {from[0], from[1], from[2], from[3]};
    return __builtin_convertvector(wide, vec);
}
static inline vec widen_short(const int16_t *from) {
    const ivec wide = {from[0], from[1], from[2], from[3]};
    return __builtin_convertvector(wide, vec);
}
#endif
#if defined(__SSE2__)
static inline vec bounded(vec x) { return _mm_min_ps(_mm_max_ps(x, splat(0)), splat(255)); }
#else
static inline vec bounded(vec x) {
    const ivec low = x > splat(0), high = x < splat(255);
    const vec raised = (vec)((ivec)x & low);
    return (vec)(((ivec)raised & high) | ((ivec)splat(255) & ~high));
}
#endif
#endif

/* The nearest bytes to values about 0, as int32. */
static inline ivec to_byte(vec values) { return __builtin_convertvector(bounded(values + 128.5F), ivec); }

/* Elements of two vectors in turn: of their first halves, or of their second ones. */
#if LANES == 16
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif LANES == 8
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

#define SPARE 16 /* bytes behind what `put_3` and `put_6` are asked to write, that they may write, too */

/* put_N: LANES times N bytes, from the N lowest bytes of each element. */
static inline void put_1(uint8_t *to, ivec x) {
    int32_t each[LANES];
    memcpy(each, &x, sizeof x);
    for (size_t k = 0; k < LANES; k++) to[k] = (uint8_t)each[k];
}

static inline void put_2(uint8_t *to, ivec x) {
    int32_t each[LANES];
    uint16_t narrow[LANES];
    memcpy(each, &x, sizeof x);
    for (size_t k = 0; k < LANES; k++) narrow[k] = (uint16_t)each[k];
    memcpy(to, narrow, sizeof narrow);
}

static inline void put_3(uint8_t *to, ivec x) {
    bytes16 four[LANES / 4];
    memcpy(four, &x, sizeof x);
    for (size_t k = 0; k < LANES / 4; k++) {
        const bytes16 dense =
            __builtin_shufflevector(four[k], four[k], 0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
        memcpy(to + 12 * k, &dense, sizeof dense);
    }
}

static inline void put_4(uint8_t *to, ivec x) { memcpy(to, &x, sizeof x); }

/* Six or eight bytes: the first four of x, the others of y. */
static inline void put_6(uint8_t *to, ivec x, ivec y) {
    const ivec zipped[2] = {ZIP_LOW(x, y), ZIP_HIGH(x, y)};
    bytes16 two[LANES / 2];
    memcpy(two, zipped, sizeof two);
    for (size_t k = 0; k < LANES / 2; k++) {
        const bytes16 dense =
            __builtin_shufflevector(two[k], two[k], 0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 6, 7, 14, 15);
        memcpy(to + 12 * k, &dense, sizeof dense);
    }
}

static inline void put_8(uint8_t *to, ivec x, ivec y) {
    const ivec zipped[2] = {ZIP_LOW(x, y), ZIP_HIGH(x, y)};
    memcpy(to, zipped, sizeof zipped);
}

#endif
