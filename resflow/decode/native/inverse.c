/* Coefficients into pixels: inverse cosine transforms of LANES blocks at a time, one block in a vector's lane.
 *
 * A block becomes 8x8 pixels, or 6x6, 4x4, 3x3, 2x2 or one of the same picture from its lowest frequencies alone. */
#include "jpeg.h"

struct samples {
    vec x0, x1, x2, x3, x4, x5, x6, x7;
};

/* 0.5 * cos(k * pi / 16), and of degrees. */
#define C1 0.49039264020161522F
#define C2 0.46193976625564337F
#define C3 0.41573480615127262F
#define C4 0.35355339059327379F
#define C5 0.27778511650980114F
#define C6 0.19134171618254492F
#define C7 0.09754516100806417F
#define D15 0.48296291314453416F
#define D30 0.43301270189221935F
#define D45 0.35355339059327379F
#define D60 0.25F
#define D75 0.12940952255126037F

/* a * by_a + b * by_b, and of four. */
static inline vec mix(vec a, float by_a, vec b, float by_b) { return muladd(b, splat(by_b), a * by_a); }

static inline vec mix_four(vec a, float by_a, vec b, float by_b, vec c, float by_c, vec d, float by_d) {
    return muladd(d, splat(by_d), muladd(c, splat(by_c), mix(a, by_a, b, by_b)));
}

/* Eight samples of eight frequencies: even ones and odd ones, added and subtracted. */
static inline struct samples transform_8(struct samples f) {
    const vec a = (f.x0 + f.x4) * C4, b = (f.x0 - f.x4) * C4;
    const vec c = mix(f.x2, C2, f.x6, C6), d = mix(f.x2, C6, f.x6, -C2);
    const vec e0 = a + c, e1 = b + d, e2 = b - d, e3 = a - c;
    const vec o0 = mix_four(f.x1, C1, f.x3, C3, f.x5, C5, f.x7, C7);
    const vec o1 = mix_four(f.x1, C3, f.x3, -C7, f.x5, -C1, f.x7, -C5);
    const vec o2 = mix_four(f.x1, C5, f.x3, -C1, f.x5, C7, f.x7, C3);
    const vec o3 = mix_four(f.x1, C7, f.x3, -C5, f.x5, C3, f.x7, -C1);
    return (struct samples){e0 + o0, e1 + o1, e2 + o2, e3 + o3, e3 - o3, e2 - o2, e1 - o1, e0 - o0};
}

/* The others from as many of the lowest frequencies. */
static inline struct samples transform_6(struct samples f) {
    const vec a = f.x0 * D45, b = (f.x1 - f.x3 - f.x5) * D45;
    const vec e0 = a + mix(f.x2, D30, f.x4, D60), e1 = a - f.x4 * 0.5F, e2 = a + mix(f.x2, -D30, f.x4, D60);
    const vec o0 = muladd(f.x5, splat(D75), mix(f.x1, D15, f.x3, D45));
    const vec o2 = muladd(f.x5, splat(D15), mix(f.x1, D75, f.x3, -D45));
    return (struct samples){.x0 = e0 + o0, .x1 = e1 + b, .x2 = e2 + o2, .x3 = e2 - o2, .x4 = e1 - b, .x5 = e0 - o0};
}

static inline struct samples transform_4(struct samples f) {
    const vec a = (f.x0 + f.x2) * C4, b = (f.x0 - f.x2) * C4;
    const vec c = mix(f.x1, C2, f.x3, C6), d = mix(f.x1, C6, f.x3, -C2);
    return (struct samples){.x0 = a + c, .x1 = b + d, .x2 = b - d, .x3 = a - c};
}

static inline struct samples transform_3(struct samples f) {
    const vec a = mix(f.x0, D45, f.x2, D60), b = f.x1 * D30;
    return (struct samples){.x0 = a + b, .x1 = mix(f.x0, D45, f.x2, -0.5F), .x2 = a - b};
}

static inline struct samples transform_2(struct samples f) { /* the cosines are all sqrt(1/2) */
    return (struct samples){.x0 = (f.x0 + f.x1) * C4, .x1 = (f.x0 - f.x1) * C4};
}

static inline struct samples transform_1(struct samples f) { return (struct samples){.x0 = f.x0 * C4}; }

/* Pixels of LANES blocks, block after block. */
static inline ivec join_4(vec a, vec b, vec c, vec d) {
    return to_byte(a) | to_byte(b) << 8 | to_byte(c) << 16 | to_byte(d) << 24;
}

static inline void put_row_8(uint8_t *to, struct samples f) {
    put_8(to, join_4(f.x0, f.x1, f.x2, f.x3), join_4(f.x4, f.x5, f.x6, f.x7));
}
static inline void put_row_6(uint8_t *to, struct samples f) {
    put_6(to, join_4(f.x0, f.x1, f.x2, f.x3), to_byte(f.x4) | to_byte(f.x5) << 8);
}
static inline void put_row_4(uint8_t *to, struct samples f) { put_4(to, join_4(f.x0, f.x1, f.x2, f.x3)); }
static inline void put_row_3(uint8_t *to, struct samples f) {
    put_3(to, to_byte(f.x0) | to_byte(f.x1) << 8 | to_byte(f.x2) << 16);
}
static inline void put_row_2(uint8_t *to, struct samples f) { put_2(to, to_byte(f.x0) | to_byte(f.x1) << 8); }
static inline void put_row_1(uint8_t *to, struct samples f) { put_1(to, to_byte(f.x0)); }

#define EACH_1(DO) DO(0)
#define EACH_2(DO) EACH_1(DO) DO(1)
#define EACH_3(DO) EACH_2(DO) DO(2)
#define EACH_4(DO) EACH_3(DO) DO(3)
#define EACH_6(DO) EACH_4(DO) DO(4) DO(5)
#define EACH_8(DO) EACH_6(DO) DO(6) DO(7)
#define TAKE(k) x.x##k = widen_short(from + 8 * LANES * k + u * LANES) * scale[8 * k + u];
#define KEEP(k) store(work + 8 * LANES * k + u * LANES, x.x##k);
#define LOAD(k) x.x##k = load(work + 8 * LANES * row + LANES * k);

/* Along y, then along x. */
#define INVERSE(SIDE)                                                                                                  \
    static void inverse_##SIDE(const int16_t *from, size_t groups, const float *scale, uint8_t *target,                \
                               size_t stride) {                                                                        \
        float work[64 * LANES];                                                                                        \
        for (size_t group = 0; group < groups; group++, from += GROUP, target += SIDE * LANES) {                       \
            for (size_t u = 0; u < SIDE; u++) {                                                                        \
                struct samples x = {0};                                                                                \
                EACH_##SIDE(TAKE) x = transform_##SIDE(x);                                                             \
                EACH_##SIDE(KEEP)                                                                                      \
            }                                                                                                          \
            for (size_t row = 0; row < SIDE; row++) {                                                                  \
                struct samples x = {0};                                                                                \
                EACH_##SIDE(LOAD) put_row_##SIDE(target + row * stride, transform_##SIDE(x));                          \
            }                                                                                                          \
        }                                                                                                              \
    }

INVERSE(8)
INVERSE(6)
INVERSE(4)
INVERSE(3)
INVERSE(2)
INVERSE(1)

static void inverse(const int16_t *coefficients, size_t groups, const float scale[64], uint8_t *target, size_t stride,
                    size_t side) {
    switch (side) {
        case 8: inverse_8(coefficients, groups, scale, target, stride); break;
        case 6: inverse_6(coefficients, groups, scale, target, stride); break;
        case 4: inverse_4(coefficients, groups, scale, target, stride); break;
        case 3: inverse_3(coefficients, groups, scale, target, stride); break;
        case 2: inverse_2(coefficients, groups, scale, target, stride); break;
        default: inverse_1(coefficients, groups, scale, target, stride);
    }
}
