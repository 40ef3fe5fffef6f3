/* Memory of one call: taken piece by piece, given back at once. */
#ifndef RESFLOW_MEMORY_H
#define RESFLOW_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define PIECES 48

struct memory {
    void *pieces[PIECES];
    size_t count;
    bool failed; /* once a piece could not be had, none is given any more */
};

/* `count` elements of `size` bytes, uninitialised; NULL, and `failed`, where there are none to be had. */
static inline void *take(struct memory *memory, size_t count, size_t size) {
    if (memory->failed || memory->count == PIECES || (size && count > (SIZE_MAX >> 1) / size)) {
        memory->failed = true;
        return NULL;
    }
    const size_t bytes = count * size;
    void *piece = malloc(bytes > 0 ? bytes : 1);
    if (!piece) {
        memory->failed = true;
        return NULL;
    }
    memory->pieces[memory->count++] = piece;
    return piece;
}

static inline void give_back(struct memory *memory) {
    while (memory->count) free(memory->pieces[--memory->count]);
}

#endif
