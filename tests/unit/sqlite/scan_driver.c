/* Reads scans from standard input and writes what they find: for runs under sanitizers, and under
 * an emulator of another processor. All numbers are little-endian, as scans.py packs them. */

#include "scan.c"

#include <pthread.h>
#include <stdio.h>

static void get(void *to, size_t size) {
    if (size && fread(to, 1, size, stdin) != size) exit(3);
}

static void *got(size_t size) {
    void *to = malloc(size ? size : 1); /* exactly as long, so that a byte beyond is noticed */
    if (!to) exit(4);
    get(to, size);
    return to;
}

static int64_t number(void) {
    int64_t found;
    get(&found, sizeof found);
    return found;
}

static double real(void) {
    double found;
    get(&found, sizeof found);
    return found;
}

/* Distances of pairs, whose metric's number is 1000 less than what came first. */
static void measure(int64_t metric) {
    int64_t vectors = number(), points = number(), count = number(), dim = number();
    number();
    float *all = got((size_t)(vectors * dim) * 4), *of = got((size_t)(points * dim) * 4);
    int64_t *rows = got((size_t)count * 8), *which = got((size_t)count * 8);
    double *found = malloc((size_t)count * 8 + 1);
    if (aiovec_scan_distances(all, rows, of, which, count, dim, metric, found) != 1) exit(5);
    fwrite(found, 8, (size_t)count, stdout);
    free(all), free(of), free(rows), free(which), free(found);
}

/* The best rows by words. */
static void rank(void) {
    int64_t count = number(), wanted = number(), required = number(), lists = number();
    double shortest = real(), mean = real();
    uint8_t *gone = got((size_t)count);
    uint32_t *lengths = got((size_t)count * 4);
    WordList *words = calloc((size_t)lists, sizeof *words);
    for (int64_t i = 0; i < lists; i++) {
        words[i].size = number();
        words[i].wide = number();
        words[i].largest = real();
        words[i].weight = real();
        words[i].original = number();
        words[i].rows = got((size_t)words[i].size * 4);
        words[i].counts = got((size_t)(words[i].size * words[i].wide));
    }
    double *heap = malloc((size_t)wanted * 8), *scores;
    uint32_t *rows;
    int64_t total;
    for (int64_t room = 0;; room = total) {
        rows = malloc((size_t)room * 4 + 1);
        scores = malloc((size_t)room * 8 + 1);
        total = aiovec_scan_words(words, lists, required, gone, lengths, count, shortest, mean,
                                  wanted, heap, NULL, room, rows, scores);
        if (total <= room) break;
        free(rows), free(scores);
    }
    fwrite(&total, 8, 1, stdout);
    fwrite(rows, 4, (size_t)total, stdout);
    fwrite(scores, 8, (size_t)total, stdout);
    for (int64_t i = 0; i < lists; i++) free((void *)words[i].rows), free((void *)words[i].counts);
    free(rows), free(scores), free(heap), free(words), free(gone), free(lengths);
}

static void *part(void *search) {
    aiovec_scan_part(search);
    return NULL;
}

int main(void) {
    int64_t kinds = aiovec_scan_kinds();
    fwrite(&kinds, sizeof kinds, 1, stdout);
    for (;;) {
        int64_t kind = number();
        if (kind < 0) return 0;
        if (kind == 2000) {
            rank();
            continue;
        }
        if (kind >= 1000) {
            measure(kind - 1000);
            continue;
        }
        int64_t threads = number(), segments = number(), count = number(), dim = number();
        int64_t metric = number(), half = (dim + 1) / 2;
        double longest = real();
        Segment *parts = calloc((size_t)segments + 1, sizeof *parts);
        const uint8_t **masks = calloc((size_t)(segments * count) + 1, sizeof *masks);
        for (int64_t i = 0; i < segments; i++) {
            size_t rows = (size_t)(parts[i].rows = number());
            parts[i].dead = number();
            parts[i].upper = got(rows * (size_t)half);
            parts[i].lower = got(rows * (size_t)half);
            parts[i].scale = got(rows * 4);
            parts[i].offset = got(rows * 4);
            parts[i].error = got(rows * 4);
            parts[i].rowids = got(rows * 8);
            parts[i].vectors = got(rows * (size_t)dim * 4);
            parts[i].most_error = real();
            parts[i].most_reach = real();
            parts[i].most_offset = real();
            parts[i].most_lower = real();
            for (int64_t j = 0; j < count; j++)
                if (number()) masks[i * count + j] = got(rows);
        }
        float *points = got((size_t)(count * dim) * 4);
        int64_t *wanted = got((size_t)count * 8);
        Search *search = aiovec_scan_begin(kind, parts, segments, masks, points, wanted, count, dim,
                                           metric, longest, NULL, threads, TILE);
        if (!search) exit(5);
        pthread_t helpers[8];
        for (int64_t i = 1; i < threads; i++) pthread_create(&helpers[i], NULL, part, search);
        part(search);
        for (int64_t i = 1; i < threads; i++) pthread_join(helpers[i], NULL);
        int64_t *ends = malloc((size_t)count * 8), *rowids, total;
        double *distances;
        float *vectors;
        for (int64_t room = 0;; room = total) {
            rowids = malloc((size_t)room * 8 + 1);
            distances = malloc((size_t)room * 8 + 1);
            vectors = malloc((size_t)(room * dim) * 4 + 1);
            total = aiovec_scan_end(search, room, ends, rowids, distances, vectors);
            if (total < 0) exit(5);
            if (total <= room) break;
            free(rowids), free(distances), free(vectors);
        }
        fwrite(ends, 8, (size_t)count, stdout);
        fwrite(rowids, 8, (size_t)total, stdout);
        fwrite(distances, 8, (size_t)total, stdout);
        free(ends), free(rowids), free(distances), free(vectors);
        aiovec_scan_free(search);
        for (int64_t i = 0; i < segments; i++) {
            free((void *)parts[i].upper), free((void *)parts[i].lower), free((void *)parts[i].scale);
            free((void *)parts[i].offset), free((void *)parts[i].error);
            free((void *)parts[i].rowids), free((void *)parts[i].vectors);
            for (int64_t j = 0; j < count; j++) free((void *)masks[i * count + j]);
        }
        free(parts), free(masks), free(points), free(wanted);
    }
}
