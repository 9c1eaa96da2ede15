/* Reads scans from standard input and writes what they find: for runs under sanitizers, and under
 * an emulator of another processor. All numbers are little-endian, as scans.py packs them. */

#include "scan.c"

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

int main(void) {
    int64_t kinds = aiovec_scan_kinds();
    fwrite(&kinds, sizeof kinds, 1, stdout);
    for (;;) {
        int64_t kind = number();
        if (kind < 0) return 0;
        if (kind >= 1000) {
            measure(kind - 1000);
            continue;
        }
        int64_t segments = number(), count = number(), dim = number();
        int64_t metric = number(), half = (dim + 1) / 2;
        double share = real();
        Segment *parts = calloc((size_t)segments + 1, sizeof *parts);
        const uint8_t **masks = calloc((size_t)(segments * count) + 1, sizeof *masks);
        for (int64_t i = 0; i < segments; i++) {
            size_t rows = (size_t)(parts[i].rows = number());
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
        Query *queries = calloc((size_t)count, sizeof *queries);
        float *points = malloc((size_t)(count * dim) * 4);
        for (int64_t j = 0; j < count; j++) {
            get(points + j * dim, (size_t)dim * 4);
            queries[j].codes = got((size_t)dim);
            queries[j].scale = real();
            queries[j].length = real();
            queries[j].slack = real();
            queries[j].blur = real();
            queries[j].floor = -INFINITY;
            queries[j].wanted = number();
            queries[j].lowers = malloc((size_t)queries[j].wanted * sizeof(double) + 1);
        }
        Answer answer = {0};
        answer.room = TILE * count;
        answer.found = malloc((size_t)answer.room * sizeof(Found));
        while (answer.segment < segments) {
            /* One segment in each call. */
            int64_t done = aiovec_scan(kind, parts, segments, masks, queries, count, dim, share,
                                       metric == EUCLIDEAN, 1, &answer);
            if (done < 0) exit(5);
            if (done) continue;
            answer.room *= 2;
            answer.found = realloc(answer.found, (size_t)answer.room * sizeof(Found));
        }
        size_t total = (size_t)answer.count;
        Found *sorted = malloc(total * sizeof(Found) + 1);
        int64_t *rowids = malloc(total * 8 + 1), *ends = malloc((size_t)count * 8);
        double *most = malloc(total * 8 + 1), longest = 0;
        aiovec_scan_sort(queries, count, &answer, sorted, rowids, most, ends);
        fwrite(ends, 8, (size_t)count, stdout);
        fwrite(rowids, 8, (size_t)ends[count - 1], stdout);
        for (int64_t i = 0; i < segments; i++) {
            double end = 1.001 * (parts[i].most_reach + parts[i].most_error);
            if (end > longest) longest = end;
        }
        if (aiovec_scan_measure(queries, parts, points, count, dim, metric, longest, &answer,
                                sorted, most, ends) < 0)
            exit(5);
        fwrite(ends, 8, (size_t)count, stdout);
        for (int64_t i = 0; i < ends[count - 1]; i++) fwrite(&sorted[i].rowid, 8, 1, stdout);
        fwrite(most, 8, (size_t)ends[count - 1], stdout);
        for (int64_t i = 0; i < segments; i++) {
            free((void *)parts[i].upper), free((void *)parts[i].lower), free((void *)parts[i].scale);
            free((void *)parts[i].offset), free((void *)parts[i].error);
            free((void *)parts[i].rowids), free((void *)parts[i].vectors);
            for (int64_t j = 0; j < count; j++) free((void *)masks[i * count + j]);
        }
        for (int64_t j = 0; j < count; j++) free((void *)queries[j].codes), free(queries[j].lowers);
        free(parts), free(masks), free(queries), free(points), free(answer.found), free(sorted);
        free(rowids), free(most), free(ends);
    }
}
