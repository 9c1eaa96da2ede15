/* The best rows by keywords, of one part of a table's words. scan.c includes this file.
 *
 * docs/internals/keywords.md describes how rows are scored. A clause has a list of the rows that
 * match it, in ascending order, with match counts. The lists are read one after the other, rarest
 * first. A row is scored when the first list with it is read, and looked up in later lists until
 * it is clear that it cannot be among the best. When the remaining lists together cannot lift a row
 * to the lowest of the best scores so far, their other rows are skipped. */

/* FTS5's parameters of BM25. Its arithmetic is repeated here, operation for operation. */
#define K1 1.2
#define B 0.75
/* More than the relative rounding error of sums in another order. */
#define ROUNDED (1 + 1e-9)
/* Rows between two checks for a cancelled caller. */
#define BLOCK 4096

/* Laid out as in library.py. */
typedef struct {
    const uint32_t *rows;
    const void *counts; /* of one byte or four each */
    int64_t size;
    int64_t wide;     /* bytes of a count; 0: the list selects rows, and adds nothing to a score */
    double largest;   /* of the counts */
    double weight;
    int64_t original; /* the list of the clause that stands here in the query */
    /* The state of a search. */
    int64_t at;  /* the place of the first row that is not below the last one looked up */
    double count; /* matches in the current row */
    double most; /* the most that this list and the later ones add to a score */
} WordList;

/* Look up a row that is not below the one in the last call. The steps double from the last place,
 * then halve. */
static int word_is_in(WordList *list, uint32_t row) {
    int64_t low = list->at, step = 1;
    if (low >= list->size) return 0;
    if (list->rows[low] >= row) return list->rows[low] == row;
    while (low + step < list->size && list->rows[low + step] < row) {
        low += step;
        step *= 2;
    }
    int64_t high = low + step < list->size ? low + step : list->size;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (list->rows[middle] < row) low = middle;
        else high = middle;
    }
    list->at = high;
    return high < list->size && list->rows[high] == row;
}

/* Store the match count of the row at the list's place; return what it adds to the row's score. */
static double word_adds(WordList *list, double base) {
    if (list->wide == 1) list->count = ((const uint8_t *)list->counts)[list->at];
    else if (list->wide == 4) list->count = ((const uint32_t *)list->counts)[list->at];
    else list->count = 0;
    return list->weight * ((list->count * (K1 + 1.0)) / (list->count + base));
}

/* The best rows so far, and other rows that were among them earlier. */
typedef struct {
    double *heap; /* the best scores, the lowest first */
    int64_t wanted, known;
    uint32_t *rows;
    double *scores;
    int64_t room, kept;
    int64_t lost; /* rows without room */
    int equal;    /* most rows are among the best or equal to the last one */
    double floor; /* the lowest of the best scores; 0 while there are fewer than wanted */
} BestRows;

static void word_drop(BestRows *best) {
    int64_t kept = 0;
    for (int64_t i = 0; i < best->kept; i++)
        if (best->scores[i] >= best->floor) {
            best->rows[kept] = best->rows[i];
            best->scores[kept++] = best->scores[i];
        }
    best->kept = kept;
}

static void word_keep(BestRows *best, uint32_t row, double score) {
    int64_t place = 0;
    double *heap = best->heap;
    if (best->kept == best->room && !best->equal) {
        word_drop(best);
        best->equal = best->kept > best->room / 4 * 3;
    }
    if (best->kept < best->room) {
        best->rows[best->kept] = row;
        best->scores[best->kept++] = score;
    } else best->lost++;
    if (best->known < best->wanted) {
        for (place = best->known++; place > 0 && heap[(place - 1) / 2] > score;
             place = (place - 1) / 2)
            heap[place] = heap[(place - 1) / 2];
        heap[place] = score;
    } else if (score > heap[0]) {
        for (;;) {
            int64_t next = 2 * place + 1;
            if (next >= best->wanted) break;
            if (next + 1 < best->wanted && heap[next + 1] < heap[next]) next++;
            if (heap[next] >= score) break;
            heap[place] = heap[next];
            place = next;
        }
        heap[place] = score;
    }
    if (best->known == best->wanted) best->floor = heap[0];
}

/* Write the best rows and their scores, in any order, including ties with the last. Return their
 * number; if it is more than `room`, the call has to be repeated with that much room.
 *
 * Rows that are missing from one of the first `required` lists or marked in `gone` are left out.
 * `lengths` has the word counts of the `size` rows, none below `shortest`; `mean` is their mean. A
 * list may be in a mapped file that another program has overwritten, so row numbers from `size` on
 * are left out too. `heap` has room for `wanted` numbers. If `stop` becomes true, the result is
 * incomplete. */
EXPORTED int64_t aiovec_scan_words(WordList *lists, int64_t count, int64_t required,
                                   const uint8_t *gone, const uint32_t *lengths, int64_t size,
                                   double shortest, double mean, int64_t wanted, double *heap,
                                   const int8_t *stop, int64_t room, uint32_t *rows, double *scores) {
    BestRows best = {heap, wanted, 0, rows, scores, room, 0, 0, 0, 0};
    double least = K1 * (1 - B + B * shortest / mean);
    for (int64_t i = count; i-- > 0;) {
        double largest = lists[i].largest;
        lists[i].most = lists[i].weight * (largest * (K1 + 1)) / (largest + least) +
                        (i + 1 < count ? lists[i + 1].most : 0);
    }
    for (int64_t first = 0; first < (required ? 1 : count); first++) {
        WordList *list = &lists[first];
        double others = first + 1 < count ? lists[first + 1].most : 0;
        if (list->most * ROUNDED < best.floor) break;
        for (int64_t i = 0; i < count; i++) lists[i].at = 0, lists[i].count = 0;
        for (list->at = 0; list->at < list->size; list->at++) {
            if (list->at % BLOCK == 0 && ENDED(stop)) return 0;
            uint32_t row = list->rows[list->at];
            if (row >= size || gone[row]) continue;
            double base = K1 * (1 - B + B * (double)lengths[row] / mean);
            double score = word_adds(list, base);
            if ((score + others) * ROUNDED < best.floor) continue;
            int64_t i = 0;
            while (i < first && !word_is_in(&lists[i], row)) i++;
            if (i < first) continue; /* it was scored when that list was read */
            for (i = first + 1; i < count; i++) {
                lists[i].count = 0;
                if (word_is_in(&lists[i], row)) score += word_adds(&lists[i], base);
                else if (i < required) break;
                double more = i + 1 < count ? lists[i + 1].most : 0;
                if ((score + more) * ROUNDED < best.floor) break;
            }
            if (i < count) continue;
            score = 0; /* in the order of the query, as FTS5 adds */
            for (i = 0; i < count; i++) {
                const WordList *next = &lists[lists[i].original];
                if (next->count > 0)
                    score += next->weight * ((next->count * (K1 + 1.0)) / (next->count + base));
            }
            if (score > 0 && score >= best.floor) word_keep(&best, row, score);
        }
    }
    if (best.lost) return room + best.lost;
    word_drop(&best);
    return best.kept;
}
