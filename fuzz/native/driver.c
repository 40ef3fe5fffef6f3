/* A coverage-guided fuzzer in place of libFuzzer, where there is GCC and no clang: DRIVER SECONDS CRASH SEED...
 *
 * GCC calls __sanitizer_cov_trace_pc at every branch of the harness. An input that takes a new one, or takes one a new
 * number of times, joins the corpus. A sanitizer's complaint ends the run; the input is then left in the file CRASH. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EDGES (1U << 16)
#define CORPUS 4096
#define LONGEST (1U << 14)

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
void __sanitizer_cov_trace_pc(void);
void __sanitizer_set_death_callback(void (*callback)(void));

static uint8_t counts[EDGES], seen[EDGES], current[LONGEST];
static uintptr_t before;
static size_t current_size, corpus_count, sizes[CORPUS], edges;
static uint8_t *corpus[CORPUS];
static const char *crash;
static uint64_t state = 0x9E3779B97F4A7C15U;

void __sanitizer_cov_trace_pc(void) {
    const uintptr_t here = (uintptr_t)__builtin_return_address(0);
    uint8_t *count = &counts[(here ^ before) & (EDGES - 1)];
    *count += *count < 255;
    before = here >> 1;
}

static size_t below(size_t limit) { /* xorshift */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state >> 11) % limit;
}

static void leave_input(void) {
    FILE *file = fopen(crash, "wb");
    if (!file) return;
    fwrite(current, 1, current_size, file);
    fclose(file);
    fprintf(stderr, "the input is in %s\n", crash);
}

/* Runs `current`; whether it went where none went before. */
static int is_new(void) {
    int fresh = 0;
    memset(counts, 0, sizeof counts);
    before = 0;
    LLVMFuzzerTestOneInput(current, current_size);
    for (size_t i = 0; i < EDGES; i++) {
        if (!counts[i]) continue;
        uint8_t bucket = 1; /* 1, 2, 3, 4 to 7, 8 to 15, ... */
        while (bucket < 8 && counts[i] >> bucket) bucket++;
        const uint8_t bit = (uint8_t)(1U << (bucket - 1));
        edges += !seen[i];
        fresh |= !(seen[i] & bit);
        seen[i] |= bit;
    }
    return fresh;
}

static void keep(void) {
    const size_t at = corpus_count < CORPUS ? corpus_count++ : below(CORPUS);
    free(corpus[at]);
    corpus[at] = malloc(current_size);
    if (!corpus[at]) abort();
    memcpy(corpus[at], current, current_size);
    sizes[at] = current_size;
}

static void mutate(void) {
    static const uint8_t nasty[] = {0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0xC0, 0xC4, 0xD0, 0xD9, 0xDA, 0xDB, 0xDD};
    size_t at = below(current_size), other = below(current_size), length = 1 + below(32);
    if (length > current_size - at) length = current_size - at;
    switch (below(8)) {
        case 0: current[at] ^= (uint8_t)(1U << below(8)); break;
        case 1: current[at] = (uint8_t)below(256); break;
        case 2: current[at] = nasty[below(sizeof nasty)]; break;
        case 3: current[at] = (uint8_t)(current[at] + below(9) - 4); break;
        case 4: current[below(current_size < 8 ? current_size : 8)] = (uint8_t)below(256); break; /* the options */
        case 5: /* bytes from elsewhere */
            if (length > current_size - other) length = current_size - other;
            memmove(current + at, current + other, length);
            break;
        case 6: /* fewer */
            if (current_size - length < 16) break;
            memmove(current + at, current + at + length, current_size - at - length);
            current_size -= length;
            break;
        default: /* more */
            if (current_size + length > LONGEST) break;
            memmove(current + at + length, current + at, current_size - at);
            current_size += length;
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    const time_t end = time(NULL) + atoi(argv[1]);
    crash = argv[2];
    __sanitizer_set_death_callback(leave_input);
    for (int k = 3; k < argc; k++) {
        FILE *file = fopen(argv[k], "rb");
        if (!file) return 2;
        current_size = fread(current, 1, LONGEST, file);
        fclose(file);
        if (!current_size) continue;
        is_new();
        keep();
    }
    unsigned long runs = 0;
    while (corpus_count && ((runs & 255) || time(NULL) < end)) {
        const size_t from = below(corpus_count);
        current_size = sizes[from];
        memcpy(current, corpus[from], current_size);
        for (size_t k = 1 + below(6); k; k--) mutate();
        runs++;
        if (is_new()) keep();
    }
    printf("%lu runs, %zu inputs kept, %zu edges: no fault\n", runs, corpus_count, edges);
    return 0;
}
