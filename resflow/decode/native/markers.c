/* The segments before a JPEG's scan. Source: ITU-T T.81, annex B. */
#include "jpeg.h"

enum { SOF0 = 0xC0, SOF1 = 0xC1, DHT = 0xC4, EOI = 0xD9, SOS = 0xDA, DQT = 0xDB, DRI = 0xDD, APP0 = 0xE0, APP1 = 0xE1 };
enum { APP14 = 0xEE, JPG7 = 0xF7, JPG8 = 0xF8, COM = 0xFE };

static bool starts_with(struct span segment, const char *tag, size_t length) {
    return segment.size >= length && memcmp(segment.data, tag, length) == 0;
}

/* DQT: the tables that it held as bits, 0 where it is of another kind. */
static unsigned read_quantisation(struct span segment, struct picture *picture) {
    unsigned found = 0;
    for (size_t at = 0; at < segment.size; at += 65) {
        const unsigned table = byte_at(segment, at);
        if (table > 3 || segment.size - at < 65) return 0; /* 16-bit values have a high nibble */
        memcpy(picture->steps[table], segment.data + at + 1, 64);
        found |= 1U << table;
    }
    return found;
}

/* DHT: the tables that it held as bits, 0 where it is not sound. */
static unsigned read_codes(struct span segment, struct picture *picture) {
    unsigned found = 0;
    for (size_t at = 0; at < segment.size;) {
        const unsigned kind = byte_at(segment, at);
        if (segment.size - at < 17 || kind & 0xEE) return 0;
        const unsigned table = (kind >> 4) * 2 + (kind & 1);
        size_t total = 0;
        memcpy(picture->lengths[table], segment.data + at + 1, 16);
        for (size_t k = 0; k < 16; k++) total += picture->lengths[table][k];
        at += 17;
        if (total > 256 || total > segment.size - at) return 0;
        memcpy(picture->symbols[table], segment.data + at, total);
        at += total;
        found |= 1U << table;
    }
    return found;
}

/* SOF: whether the frame is one of the kinds that are taken. */
static bool read_frame(struct span segment, struct picture *picture) {
    const size_t count = byte_at(segment, 5);
    if (byte_at(segment, 0) != 8 || (count != 1 && count != 3) || segment.size != 6 + 3 * count) return false;
    picture->height = pair_at(segment, 1);
    picture->width = pair_at(segment, 3);
    picture->count = count;
    for (size_t c = 0; c < count; c++) {
        struct component *component = &picture->components[c];
        const unsigned sampling = byte_at(segment, 7 + 3 * c);
        component->identifier = byte_at(segment, 6 + 3 * c);
        component->across = sampling >> 4;
        component->down = sampling & 15;
        component->quantisation = byte_at(segment, 8 + 3 * c);
        if (component->quantisation > 3) return false;
    }
    struct component *first = &picture->components[0];
    if (count == 1) {
        first->across = first->down = 1; /* a single component is not interleaved, whatever it says */
    } else if (first->across < 1 || first->across > 2 || first->down < 1 || first->down > 2) {
        return false;
    }
    for (size_t c = 1; c < count; c++) { /* colour at the picture's size, or at half of it */
        if (picture->components[c].across != 1 || picture->components[c].down != 1) return false;
    }
    return picture->width && picture->height;
}

/* SOS: whether the one scan holds the whole picture, with tables that are there (as bits). */
static bool read_header(struct span segment, struct picture *picture, unsigned quantisations, unsigned codes) {
    const size_t count = picture->count;
    if (segment.size != 4 + 2 * count || byte_at(segment, 0) != count) return false;
    for (size_t c = 0; c < count; c++) {
        struct component *component = &picture->components[c];
        const unsigned tables = byte_at(segment, 2 + 2 * c);
        if (byte_at(segment, 1 + 2 * c) != component->identifier || tables & 0xEE) return false;
        component->dc = tables >> 4;
        component->ac = 2 + (tables & 15);
        if (!(codes >> component->dc & codes >> component->ac & quantisations >> component->quantisation & 1)) {
            return false;
        }
    }
    const size_t last = segment.size - 3;
    return byte_at(segment, last) == 0 && byte_at(segment, last + 1) == 63 && byte_at(segment, last + 2) == 0;
}

static bool read_segments(struct span file, struct picture *picture) {
    const size_t size = file.size;
    if (size < 4 || pair_at(file, 0) != 0xFFD8 || pair_at(file, size - 2) != (0xFF00 | EOI)) return false;
    unsigned quantisations = 0, codes = 0;
    bool frame = false, jfif = false, adobe = false, adobe_rgb = false;
    memset(picture, 0, sizeof *picture);
    for (size_t at = 2; at + 4 <= size && byte_at(file, at) == 0xFF;) {
        const unsigned marker = byte_at(file, at + 1), length = pair_at(file, at + 2);
        if (length < 2 || length > size - at - 2) return false;
        const struct span segment = {file.data + at + 4, length - 2};
        unsigned found;
        at += 2 + (size_t)length;
        switch (marker) {
            case DQT:
                found = read_quantisation(segment, picture);
                if (!found) return false;
                quantisations |= found;
                break;
            case DHT:
                found = read_codes(segment, picture);
                if (!found) return false;
                codes |= found;
                break;
            case SOF0:
            case SOF1:
                if (frame || !read_frame(segment, picture)) return false;
                frame = true;
                break;
            case DRI:
                if (segment.size != 2) return false;
                picture->restart = pair_at(segment, 0);
                break;
            case APP1:
                picture->app1 = true;
                break;
            case APP0:
                jfif |= starts_with(segment, "JFIF", 4);
                break;
            case APP14:
                if (starts_with(segment, "Adobe", 5) && segment.size >= 12) {
                    adobe = true;
                    adobe_rgb = byte_at(segment, 11) == 0;
                }
                break;
            case SOS: {
                /* Red, green and blue: by Adobe's mark, or by their names. */
                const bool rgb = adobe ? adobe_rgb : picture->components[0].identifier == 'R';
                if (!frame || (picture->count == 3 && !jfif && rgb)) return false;
                picture->scan = at;
                return read_header(segment, picture, quantisations, codes);
            }
            default:
                if (marker < APP0 || marker > COM || marker == JPG7 || marker == JPG8) return false;
        }
    }
    return false;
}
