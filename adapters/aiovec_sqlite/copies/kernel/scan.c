/* The scan of resident copies: for each query, find all rows that may be among its nearest.
 *
 * docs/internals/exact-search.md defines a row's codes, scale, offset and error, and proves the
 * bound that excludes a row. In one pass the scan multiplies the rows' codes with all query codes,
 * and keeps the rows whose value can reach the query's floor. Codes bound a row's value from below,
 * and the floor is the `wanted`th highest of these lower ends so far. Rows that a query's mask
 * excludes are skipped first. Candidates are measured by their vectors.
 *
 * Codes are split into two halves: the upper four bits of each, plus 8, and the lower four. Memory
 * limits the speed of a few queries, so they read the upper halves of all rows, and the lower halves
 * only of rows that may reach the floor with some lower halves. Many queries join both halves of a
 * tile's rows, if the processor multiplies whole codes as fast as halves; if not, they too read the
 * upper halves first.
 *
 * Threads share a search: each takes some rows at a time, until none are left, and collects
 * its own candidates. The threads share the number of the next rows, and the floors. The last step
 * merges the candidates.
 *
 * This file calls no Python. All names at file scope are static, except the exported functions. The
 * compiler needs C11 and nothing else. */

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Distances equal NumPy's to the last bit only if the compiler computes doubles as doubles. */
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "this compiler computes with more bits than a number has; on x86 use -msse2 -mfpmath=sse"
#endif

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

/* Clang for Windows calls itself Microsoft's compiler, but needs instructions to be enabled. */
#if defined(_MSC_VER) && !defined(__clang__)
#define MICROSOFT 1
#include <intrin.h>
#define INLINE static __forceinline
#define RESTRICT __restrict
#else
#define MICROSOFT 0
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT restrict
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define X86 1
#define ARM 0
#include <immintrin.h>
#elif defined(__aarch64__) || defined(_M_ARM64)
#define X86 0
#define ARM 1
#include <arm_neon.h>
#else
#define X86 0
#define ARM 0
#endif

/* Change this number with the interface to Python, which refuses a library with another number. */
#define VERSION 12

/* Rows that are multiplied and compared together. */
#define TILE 32
/* Queries that are multiplied together. */
#define GROUP 8
/* For more queries than this, a tile's rows are rearranged in the order of the lanes. */
#define FEW 4
/* Two products of four bits with codes of at most 127 add up to less than 4,096, so the sums of
 * this many columns of four codes, in two lanes each, fit into 16 bits. */
#define NARROW 8
/* Values in units of the query's scale are raised to minus this, so that they fit into float32. */
#define FARTHEST 1e37f

/* A line of the cache, and the request for one. */
#define LINE 64
#if X86
#define FETCH(place) _mm_prefetch((const char *)(place), _MM_HINT_T1)
#elif defined(__GNUC__)
#define FETCH(place) __builtin_prefetch((const void *)(place), 0, 2)
#else
#define FETCH(place) ((void)(place))
#endif
/* Bytes from the rows being multiplied to the rows to fetch. The processor does not fetch beyond a
 * page by itself: without this, one query of 1,000,000 x 384 took 14.5 ms instead of 10.3. */
#define AHEAD 8192

/* Access to numbers that threads share. Nothing else depends on them, so no order is needed. */
#if MICROSOFT
#define SEEN(place) (*(const volatile long *)(place))
#define PUT(place, number) (*(volatile long *)(place) = (number))
#define TAKE(place) _InterlockedExchangeAdd((volatile long *)(place), 1)
#define ENDED(stop) ((stop) && *(const volatile int8_t *)(stop))
#else
#define SEEN(place) __atomic_load_n(place, __ATOMIC_RELAXED)
#define PUT(place, number) __atomic_store_n(place, number, __ATOMIC_RELAXED)
#define TAKE(place) __atomic_fetch_add(place, 1, __ATOMIC_RELAXED)
#define ENDED(stop) ((stop) && __atomic_load_n(stop, __ATOMIC_RELAXED))
#endif

/* The caller's rows, laid out as in library.py. */
typedef struct {
    const int8_t *upper; /* halves of each row's codes */
    const int8_t *lower;
    const float *scale;
    const float *offset; /* minus infinity: the row was removed */
    const float *error;
    const int64_t *rowids;
    const float *vectors;
    int64_t rows;
    int64_t dead; /* the number of removed rows */
    double most_error;
    double most_reach;
    double most_offset;
    double most_lower; /* an upper bound of the length of a row's lower halves minus 7.5 */
} Segment;

/* A query, as docs/internals/exact-search.md encodes it. */
typedef struct {
    const int8_t *codes;
    double scale;
    double length;
    double slack;
    double blur;
    double floor;   /* at least `wanted` rows reach it */
    double *lowers; /* room for `wanted` lower ends, a heap with the least one first */
    int64_t wanted;
    int64_t known; /* the number of lower ends */
    double size;   /* of the codes, as a vector */
    float inverse; /* 1 / scale */
    float lowest;  /* the least value in units of the scale that may reach the floor */
    int32_t sum;   /* 128 times the sum of the codes */
    int32_t above; /* the most that lower halves add to a product */
} Query;

/* A row that a query may find. */
typedef struct {
    double value;
    double miss;
    int32_t query;
    int32_t segment;
    int64_t row; /* of the segment */
} Found;

typedef struct {
    Found *found;
    int64_t count;
    int64_t room;
} Answer;

/* A row whose lower halves are still to be checked. */
typedef struct {
    int64_t row;
    int32_t number;  /* of the query */
    int32_t product; /* of the upper halves, times 16 */
} Later;

/* Rows that wait before they are checked, and rows whose lower halves are fetched together. */
#define LATER 256
#define SOON 32
/* If more rows of a tile are left than this, times the number of queries plus one, it is faster to
 * check all. If masks leave at most SPARSE rows of a tile, these are multiplied one by one. */
#define CROWD 4
#define SPARSE 8

/* The initial room for a query's candidates, and the additional room for each row that it wants. */
#define FOUND 256
#define FOUND_FOR_EACH 8

/* The scan of one thread. */
typedef struct {
    const Segment *segments;
    const uint8_t *const *masks; /* for each segment and query a byte for each row, or NULL */
    Query *queries;
    int64_t count; /* queries */
    int64_t dim;
    double share; /* the relative rounding of a float32 sum of dim products */
    int l2;
    int64_t half;   /* bytes of a row's halves */
    int64_t stride; /* bytes from one row to the next in the input of `arrange` */
    Answer *answer;
    const Segment *segment; /* the segment being scanned: its rows `first` to `last` - 1 */
    int64_t first, last;
    const uint8_t *const *segment_masks;
    int8_t *rowwise;  /* the queries' codes in the order of a row's bytes, 2 * `wide` bytes each */
    int8_t *packed;   /* the codes of many queries in the order of the kernel */
    int8_t *tile;     /* a tile's rows in that order */
    int8_t *lower;    /* the lower halves of the same rows */
    int64_t wide;     /* room for the codes that belong to one half of each byte */
    int64_t columns;  /* of four codes each */
    int64_t seconds;  /* the first column of codes that lie second in their bytes */
    int8_t *whole;    /* a tile's rows as whole codes */
    uintptr_t next[2]; /* the bytes to fetch while a tile is multiplied, even the last one */
} Scan;

/* Compute the products of some rows with a few queries: TILE numbers for each query. */
typedef void Products(const Scan *scan, const int8_t *rows, int64_t count, int32_t *out);

/* Put some rows into the kernel's order; multiply them with GROUP queries from `first` on. */
typedef void Arrange(const Scan *scan, const int8_t *rows, int64_t count, int8_t *tile);
typedef void Multiply(const Scan *scan, const int8_t *tile, int64_t count, int64_t first,
                      int32_t *out);

/* Return the product of one row's halves with a query's codes. */
typedef int32_t HalfProduct(const Scan *scan, const int8_t *row, int64_t number);

/* Return the relative error of a float32 sum of dim products in any order, with a margin. */
static double share_of(int64_t dim) { return (double)(dim + 32) * 0x1p-24; }

static double most_miss(const Scan *scan, const Query *query) {
    const Segment *segment = scan->segment;
    return query->length * segment->most_error +
           query->slack * (segment->most_reach * (1 + scan->share)) +
           scan->share * segment->most_offset + query->blur;
}

/* Set the least value in float32 that may reach the query's floor in this segment. */
static void set_lowest(const Scan *scan, int64_t number) {
    const Query *query = &scan->queries[number];
    double least = (query->floor - most_miss(scan, query)) / query->scale;
    float lowest = least < -1e38 ? -1e38f : least > 1e38 ? 1e38f : (float)least;
    scan->queries[number].lowest = lowest - fabsf(lowest) * 2.4e-7f - 1e-44f;
}

/* The heap of lower ends: none is above its two children. */

static void push_lower(Query *query, double lower) {
    double *heap = query->lowers;
    int64_t place;
    if (query->known < query->wanted) {
        place = query->known++;
        while (place > 0 && heap[(place - 1) / 2] > lower) {
            heap[place] = heap[(place - 1) / 2];
            place = (place - 1) / 2;
        }
        heap[place] = lower;
        return;
    }
    if (lower <= heap[0]) return;
    place = 0;
    for (;;) {
        int64_t next = 2 * place + 1;
        if (next >= query->wanted) break;
        if (next + 1 < query->wanted && heap[next + 1] < heap[next]) next++;
        if (heap[next] >= lower) break;
        heap[place] = heap[next];
        place = next;
    }
    heap[place] = lower;
}

/* Drop the candidates that the current floors exclude. */
static void drop_excluded(const Query *queries, Answer *answer) {
    int64_t kept = 0;
    for (int64_t i = 0; i < answer->count; i++) {
        Found one = answer->found[i];
        if (one.value + one.miss >= queries[one.query].floor) answer->found[kept++] = one;
    }
    answer->count = kept;
}

/* Check a row, and keep it as a candidate if it may reach the query's floor. */
static void consider(const Scan *scan, int64_t number, int64_t row, int32_t product) {
    Query *query = &scan->queries[number];
    const Segment *segment = scan->segment;
    double offset = segment->offset[row];
    if (offset == -INFINITY) return;
    double value = (double)((float)product * segment->scale[row]) * query->scale;
    if (scan->l2) {
        value += offset;
        double farthest = -(double)FARTHEST * query->scale;
        if (value < farthest) value = farthest;
    }
    double miss = query->length * segment->error[row] +
                  query->slack * (segment->most_reach * (1 + scan->share));
    if (scan->l2) miss += scan->share * fabs(offset) + query->blur;
    if (value + miss < query->floor) return;
    Answer *answer = scan->answer;
    Found *found = &answer->found[answer->count++];
    found->value = value;
    found->miss = miss;
    found->query = (int32_t)number;
    found->segment = (int32_t)(segment - scan->segments);
    found->row = row;
    push_lower(query, value - miss);
    if (query->known == query->wanted && query->lowers[0] > query->floor) {
        query->floor = query->lowers[0];
        set_lowest(scan, number);
    }
}

/* Return a bit for each row of a tile that is hit. */
INLINE uint32_t marks_of(const uint8_t *hit) {
    uint64_t words[TILE / 8];
    memcpy(words, hit, TILE);
    if (!(words[0] | words[1] | words[2] | words[3])) return 0;
    uint32_t marks = 0;
    for (int64_t i = 0; i < TILE; i++) marks |= (uint32_t)hit[i] << i;
    return marks;
}

/* Return a bit for each row of a tile whose value reaches the query's `lowest`. A row's product
 * with the query is `times` its number in `products`, plus `more`. */
INLINE uint32_t reached(const Scan *scan, int64_t number, int64_t row, int64_t count,
                        const int32_t *products, int32_t times, int32_t more) {
    const float *scale = scan->segment->scale + row, *offset = scan->segment->offset + row;
    float lowest = scan->queries[number].lowest, inverse = scan->queries[number].inverse;
    const uint8_t *mask = scan->masks ? scan->segment_masks[number] : NULL;
    uint8_t hit[TILE] = {0};
    /* The offset of a removed row is minus infinity, so a comparison excludes the row. */
    int dead = scan->segment->dead > 0;
    /* Loops of a fixed length compile to a few vector instructions. */
#define CODES(i) (float)(times * products[i] + more)
#define COMPARE(length)                                                                     \
    if (scan->l2)                                                                           \
        for (int64_t i = 0; i < (length); i++) {                                            \
            float value = CODES(i) * scale[i] + offset[i] * inverse;                        \
            value = value < -FARTHEST ? -FARTHEST : value;                                  \
            hit[i] = value >= lowest;                                                       \
        }                                                                                   \
    else if (dead)                                                                          \
        for (int64_t i = 0; i < (length); i++)                                              \
            hit[i] = CODES(i) * scale[i] + offset[i] >= lowest;                             \
    else                                                                                    \
        for (int64_t i = 0; i < (length); i++) hit[i] = CODES(i) * scale[i] >= lowest;      \
    if (mask)                                                                               \
        for (int64_t i = 0; i < (length); i++) hit[i] &= mask[row + i];
    if (count == TILE) {
        COMPARE(TILE)
    } else {
        COMPARE(count)
    }
#undef COMPARE
#undef CODES
    return marks_of(hit);
}

/* Return a bit for each row of a tile that at least one of these queries may return. */
INLINE uint32_t allowed(const Scan *scan, int64_t row, int64_t count, int64_t first,
                        int64_t last) {
    if (!scan->masks) return ~0u;
    uint8_t some[TILE] = {0};
    for (int64_t number = first; number < last; number++) {
        const uint8_t *mask = scan->segment_masks[number];
        if (!mask) return ~0u;
        if (count == TILE)
            for (int64_t i = 0; i < TILE; i++) some[i] |= mask[row + i];
        else
            for (int64_t i = 0; i < count; i++) some[i] |= mask[row + i];
    }
    return marks_of(some);
}

/* A byte holds four bits of each of two codes: its lower bits belong to a row's first half, its
 * upper bits to the row's second half. */
#define FIRST(byte) ((uint8_t)(byte) & 15)
#define SECOND(byte) ((uint8_t)(byte) >> 4)

/* Join the upper and lower halves of codes. Write the row's first half, then its second half. */
INLINE void put_together(const uint8_t *RESTRICT upper, const uint8_t *RESTRICT lower,
                         uint8_t *RESTRICT first, uint8_t *RESTRICT second, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        uint8_t high = upper[i] ^ 136, low = lower[i];
        uint8_t above = (uint8_t)(high << 4), below = low >> 4;
        first[i] = above | (low & 15);
        second[i] = (high & 240) | below;
    }
}

/* Return a tile's rows as whole codes, joined from both halves. */
INLINE const int8_t *whole(const Scan *scan, int64_t row, int64_t count) {
    const uint8_t *upper = (const uint8_t *)scan->segment->upper + row * scan->half;
    const uint8_t *lower = (const uint8_t *)scan->segment->lower + row * scan->half;
    uint8_t *to = (uint8_t *)scan->whole;
    int64_t half = scan->half;
    for (int64_t r = 0; r < count; r++, upper += half, lower += half, to += 2 * half)
        put_together(upper, lower, to, to + half, half);
    return scan->whole;
}

/* Make room for this many candidates. Return 0 if there is no memory. */
INLINE int has_room(const Scan *scan, int64_t wanted) {
    Answer *answer = scan->answer;
    if (answer->room - answer->count >= wanted) return 1;
    drop_excluded(scan->queries, answer);
    /* If most of them stay, the next rows would soon need room again. */
    if (answer->room - answer->count >= wanted && answer->count <= answer->room / 2) return 1;
    int64_t room = 2 * answer->room + wanted;
    Found *larger = realloc(answer->found, (size_t)room * sizeof(Found));
    if (!larger) return 0;
    answer->found = larger;
    answer->room = room;
    return 1;
}

/* Check the rows of a tile by their products with a query. */
INLINE void look_at(const Scan *scan, int64_t number, int64_t row, int64_t count,
                    const int32_t *products) {
    uint32_t marks = reached(scan, number, row, count, products, 1, 0);
    for (int64_t i = 0; marks; i++, marks >>= 1)
        if (marks & 1) consider(scan, number, row + i, products[i]);
}

/* Begin with rows of a segment. `above` is the most that lower halves can add to a product of upper
 * halves there, less the surplus in that product, because 8 was added to the upper halves. It is a
 * whole number, so it is exact. */
static void begin(Scan *scan, int64_t number, int64_t first, int64_t unit) {
    const Segment *segment = scan->segments + number;
    scan->segment = segment;
    scan->first = first;
    scan->last = segment->rows - first < unit ? segment->rows : first + unit;
    scan->segment_masks = scan->masks ? scan->masks + number * scan->count : NULL;
    for (int64_t i = 0; i < scan->count; i++) {
        Query *query = &scan->queries[i];
        double most = 7.5 / 128 * query->sum + query->size * segment->most_lower;
        query->above = (int32_t)floor(most) + 2 - query->sum;
        set_lowest(scan, i);
    }
}

/* Return whether a row with this product may reach the query's floor: `reached` for one row. */
INLINE int may_reach(const Scan *scan, int64_t number, int64_t row, int32_t product) {
    float value = (float)product * scan->segment->scale[row];
    if (scan->l2) {
        value += scan->segment->offset[row] * scan->queries[number].inverse;
        value = value < -FARTHEST ? -FARTHEST : value;
    }
    return value >= scan->queries[number].lowest;
}

/* The same for a product of upper halves: return whether any lower halves could reach the floor. */
INLINE int may_reach_above(const Scan *scan, int64_t number, int64_t row, int32_t product) {
    return may_reach(scan, number, row, product + scan->queries[number].above);
}

INLINE void fetch_lower(const Scan *scan, int64_t row) {
    const int8_t *lower = scan->segment->lower + row * scan->half;
    for (int64_t byte = 0; byte < scan->half; byte += LINE) FETCH(lower + byte);
}

/* Check the waiting rows that may still reach the floors. */
INLINE void end_waiting(const Scan *scan, HalfProduct *product, const Later *later,
                        int64_t waiting) {
    for (int64_t first = 0; first < waiting; first += SOON) {
        int64_t last = first + SOON < waiting ? first + SOON : waiting;
        for (int64_t i = first; i < last; i++)
            if (may_reach_above(scan, later[i].number, later[i].row, later[i].product))
                fetch_lower(scan, later[i].row);
        for (int64_t i = first; i < last; i++) {
            Later one = later[i];
            if (!may_reach_above(scan, one.number, one.row, one.product)) continue;
            const int8_t *lower = scan->segment->lower + one.row * scan->half;
            int32_t exact = one.product + product(scan, lower, one.number);
            consider(scan, one.number, one.row, exact - scan->queries[one.number].sum);
        }
    }
}

/* Check all rows of a tile, given the products of their upper halves. */
INLINE void look_at_all(const Scan *scan, Products *products, int64_t row, int64_t count,
                        const int32_t *upper) {
    int32_t found[TILE * FEW];
    products(scan, scan->segment->lower + row * scan->half, count, found);
    for (int64_t number = 0; number < scan->count; number++) {
        int32_t *own = found + number * TILE;
        for (int64_t i = 0; i < count; i++)
            own[i] += 16 * upper[number * TILE + i] - scan->queries[number].sum;
        look_at(scan, number, row, count, own);
    }
}

/* Scan for few queries. Skip rows that cannot reach the floor even with the most that lower halves
 * can add. Others wait until there are LATER of them; then their lower halves are fetched, and they
 * are checked. If many rows of a tile are left, read all its lower halves in sequence. */
INLINE int look_through_halves(const Scan *scan, Products *products, HalfProduct *product) {
    int32_t found[TILE * FEW] = {0};
    uint32_t marks[FEW];
    Later later[LATER + TILE * FEW];
    int64_t waiting = 0;
    const Segment *segment = scan->segment;
    for (int64_t row = scan->first; row < scan->last; row += TILE) {
        int64_t count = scan->last - row < TILE ? scan->last - row : TILE;
        int64_t open = 0, marked = 0;
        uint32_t rows = allowed(scan, row, count, 0, scan->count);
        if (!rows) continue;
        for (uint32_t left = rows; left; left &= left - 1) open++;
        if (waiting >= LATER) {
            end_waiting(scan, product, later, waiting);
            waiting = 0;
        }
        if (!has_room(scan, waiting + count * scan->count)) return 0;
        if (open > SPARSE)
            products(scan, segment->upper + row * scan->half, count, found);
        else
            for (int64_t i = 0; rows; i++, rows >>= 1)
                if (rows & 1) products(scan, segment->upper + (row + i) * scan->half, 1, found + i);
        for (int64_t number = 0; number < scan->count; number++) {
            const int32_t *own = found + number * TILE;
            marks[number] = reached(scan, number, row, count, own, 16, scan->queries[number].above);
            for (uint32_t left = marks[number]; left; left &= left - 1) marked++;
        }
        if (marked > CROWD * (scan->count + 1)) {
            look_at_all(scan, products, row, count, found);
            continue;
        }
        for (int64_t number = 0; number < scan->count; number++) {
            uint32_t left = marks[number];
            for (int64_t i = 0; left; i++, left >>= 1)
                if (left & 1)
                    later[waiting++] =
                        (Later){row + i, (int32_t)number, 16 * found[number * TILE + i]};
        }
    }
    end_waiting(scan, product, later, waiting);
    return 1;
}

/* Check the rows of a tile for a group of queries, given the products of the upper halves. Return
 * whether the lower halves of all its rows are arranged now. */
INLINE int look_at_group(const Scan *scan, Arrange *arrange, Multiply *multiply,
                         HalfProduct *product, int64_t row, int64_t count, int64_t first,
                         const int32_t *upper, int arranged) {
    int32_t found[TILE * GROUP];
    uint32_t marks[GROUP];
    const int8_t *lower = scan->segment->lower + row * scan->half;
    int64_t last = first + GROUP < scan->count ? first + GROUP : scan->count, marked = 0;
    for (int64_t number = first; number < last; number++) {
        const int32_t *own = upper + (number - first) * TILE;
        uint32_t left = reached(scan, number, row, count, own, 16, scan->queries[number].above);
        marks[number - first] = left;
        for (; left; left &= left - 1) marked++;
    }
    if (!marked) return arranged;
    if (marked > CROWD * (GROUP + 1)) {
        if (!arranged) arrange(scan, lower, count, scan->lower);
        multiply(scan, scan->lower, count, first, found);
        for (int64_t number = first; number < last; number++) {
            int32_t *own = found + (number - first) * TILE;
            for (int64_t i = 0; i < count; i++)
                own[i] += 16 * upper[(number - first) * TILE + i] - scan->queries[number].sum;
            look_at(scan, number, row, count, own);
        }
        return 1;
    }
    for (int64_t number = first; number < last; number++) {
        const int32_t *own = upper + (number - first) * TILE;
        uint32_t left = marks[number - first];
        for (int64_t i = 0; left; i++, left >>= 1) {
            if (!(left & 1)) continue;
            if (!may_reach_above(scan, number, row + i, 16 * own[i])) continue;
            int32_t exact = 16 * own[i] + product(scan, lower + i * scan->half, number);
            exact -= scan->queries[number].sum;
            if (may_reach(scan, number, row + i, exact)) consider(scan, number, row + i, exact);
        }
    }
    return arranged;
}

/* Scan for many queries, GROUP at a time. With a `product` of single rows, multiply the upper
 * halves first, otherwise whole codes. For most rows, some query needs the lower halves, so these
 * are always fetched. */
INLINE int look_through_many(Scan *scan, Arrange *arrange, Multiply *multiply,
                             HalfProduct *product) {
    int32_t found[TILE * GROUP];
    const Segment *segment = scan->segment;
    for (int64_t row = scan->first; row < scan->last; row += TILE) {
        int64_t count = scan->last - row < TILE ? scan->last - row : TILE;
        if (!has_room(scan, count * scan->count)) return 0;
        scan->next[0] = (uintptr_t)segment->upper + (uintptr_t)((row + TILE) * scan->half);
        scan->next[1] = (uintptr_t)segment->lower + (uintptr_t)((row + TILE) * scan->half);
        int upper_arranged = 0, arranged = 0;
        for (int64_t first = 0; first < scan->count; first += GROUP) {
            int64_t last = first + GROUP < scan->count ? first + GROUP : scan->count;
            if (!allowed(scan, row, count, first, last)) continue;
            if (!upper_arranged) {
                const int8_t *rows = segment->upper + row * scan->half;
                arrange(scan, product ? rows : whole(scan, row, count), count, scan->tile);
                upper_arranged = 1;
            }
            multiply(scan, scan->tile, count, first, found);
            if (product) {
                arranged = look_at_group(scan, arrange, multiply, product, row, count, first, found,
                                         arranged);
                continue;
            }
            for (int64_t number = first; number < last; number++)
                look_at(scan, number, row, count, found + (number - first) * TILE);
        }
    }
    return 1;
}

/* Scan the rows from `first` to `last`. Return 0 if there is no memory. */
typedef int LookThrough(Scan *scan);

/* The processor cannot predict where the next tile's codes are while this tile is multiplied, so
 * they are fetched along with its columns. Fetching beyond the last row does no harm. */
INLINE void fetch_of_next(const Scan *scan, int64_t column) {
    FETCH(scan->next[0] + (uintptr_t)(column * LINE));
    FETCH(scan->next[1] + (uintptr_t)(column * LINE));
}

/* Fetch the bytes that lie AHEAD of four rows. */
INLINE void fetch_ahead(const Scan *scan, const int8_t *rows) {
    for (int64_t byte = 0; byte < 4 * scan->half; byte += LINE)
        FETCH((uintptr_t)rows + (uintptr_t)(byte + AHEAD));
}

/* Copy the last bytes of a row's halves, and fill up with zeros. */
INLINE void end_of(const int8_t *row, int64_t left, int64_t most, uint8_t *to) {
    memset(to, 0, (size_t)most);
    memcpy(to, row, (size_t)left);
}

#define BY_NUMBER(few)                                 \
    switch (scan->count) {                             \
    case 1: few(scan, rows, count, 1, out); break;     \
    case 2: few(scan, rows, count, 2, out); break;     \
    case 3: few(scan, rows, count, 3, out); break;     \
    default: few(scan, rows, count, 4, out); break;    \
    }

/* Portable */

static int32_t half_portable(const Scan *scan, const int8_t *row, int64_t number) {
    const int8_t *first = scan->rowwise + 2 * number * scan->wide, *second = first + scan->wide;
    int32_t sum = 0;
    for (int64_t i = 0; i < scan->half; i++)
        sum += (int16_t)FIRST(row[i]) * (int16_t)first[i] +
               (int16_t)SECOND(row[i]) * (int16_t)second[i];
    return sum;
}

static void halves_portable(const Scan *scan, const int8_t *rows, int64_t count, int32_t *out) {
    for (int64_t number = 0; number < scan->count; number++)
        for (int64_t r = 0; r < count; r++)
            out[number * TILE + r] = half_portable(scan, rows + r * scan->half, number);
}

static void arrange_portable(const Scan *scan, const int8_t *rows, int64_t count, int8_t *tile) {
    memcpy(tile, rows, (size_t)(count * scan->half));
}

static void multiply_portable(const Scan *scan, const int8_t *tile, int64_t count, int64_t first,
                              int32_t *out) {
    int64_t last = first + GROUP < scan->count ? first + GROUP : scan->count;
    for (int64_t number = first; number < last; number++, out += TILE)
        for (int64_t r = 0; r < count; r++)
            out[r] = half_portable(scan, tile + r * scan->half, number);
}

static int scan_portable(Scan *scan) {
    if (scan->count > FEW)
        return look_through_many(scan, arrange_portable, multiply_portable, half_portable);
    return look_through_halves(scan, halves_portable, half_portable);
}

#if X86

#if MICROSOFT
#define TARGET(features)
#else
#define TARGET(features) __attribute__((target(features)))
#endif

#define AVX2 TARGET("avx2,fma,popcnt")
#define AVX512 TARGET("avx2,fma,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")

/* Turn 16 rows of the up to 64 codes that `valid` selects into 16 columns of four. Rows beyond the
 * last repeat it, and their products are not used. */
AVX512 INLINE void transpose_16(int8_t *to, const int8_t *rows, int64_t count, int64_t stride,
                                __mmask64 valid) {
    __m512i a[16], b[16];
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    for (int r = 0; r < 16; r++) {
        const int8_t *row = rows + (r < count ? r : count - 1) * stride;
        a[r] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(valid, row), flip);
    }
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    /* a[4g + j] has in its 128-bit part p the column 4p + j of the rows 4g to 4g + 3. */
    for (int j = 0; j < 4; j++) {
        __m512i low = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x44);
        __m512i high = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xee);
        __m512i low2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x44);
        __m512i high2 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xee);
        b[j] = _mm512_shuffle_i32x4(low, low2, 0x88);
        b[4 + j] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        b[8 + j] = _mm512_shuffle_i32x4(high, high2, 0x88);
        b[12 + j] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
    for (int c = 0; c < 16; c++) _mm512_store_si512((void *)(to + c * 4 * TILE), b[c]);
}

AVX512 static void arrange_avx512(const Scan *scan, const int8_t *rows, int64_t count,
                                  int8_t *tile) {
    for (int64_t place = 0; place < scan->dim; place += 64, tile += 64 * TILE) {
        __mmask64 valid = scan->dim - place < 64 ? (1ULL << (scan->dim - place)) - 1 : ~0ULL;
        for (int64_t r = 0; r < count; r += 16)
            transpose_16(tile + r * 4, rows + r * scan->stride + place, count - r, scan->stride,
                         valid);
    }
}

AVX512 static void multiply_avx512(const Scan *scan, const int8_t *tile, int64_t count,
                                   int64_t first, int32_t *out) {
    (void)count;
    const int32_t *queries = (const int32_t *)scan->packed + first * scan->columns;
    __m512i sums[2 * GROUP];
    for (int j = 0; j < GROUP; j++)
        sums[2 * j] = sums[2 * j + 1] = _mm512_set1_epi32(-scan->queries[first + j].sum);
    for (int64_t c = 0; c < scan->columns; c++, tile += 4 * TILE, queries += GROUP) {
        __m512i low = _mm512_load_si512((const void *)tile);
        __m512i high = _mm512_load_si512((const void *)(tile + 64));
        if (!first) fetch_of_next(scan, c);
        for (int j = 0; j < GROUP; j++) {
            __m512i codes = _mm512_set1_epi32(queries[j]);
            sums[2 * j] = _mm512_dpbusd_epi32(sums[2 * j], low, codes);
            sums[2 * j + 1] = _mm512_dpbusd_epi32(sums[2 * j + 1], high, codes);
        }
    }
    for (int j = 0; j < GROUP; j++) {
        _mm512_storeu_si512((void *)(out + j * TILE), sums[2 * j]);
        _mm512_storeu_si512((void *)(out + j * TILE + 16), sums[2 * j + 1]);
    }
}

/* Multiply `together` rows with `number` queries. Both are constants where this is inlined, so that
 * the sums stay in registers. The rows share the loads of the queries' codes. */
AVX512 INLINE void rows_avx512(const Scan *scan, const int8_t *const *rows, const int8_t *packed,
                               int together, int number, __m512i *sums) {
    const __m512i four = _mm512_set1_epi8(15);
    int64_t half = scan->half, wide = scan->wide;
    for (int j = 0; j < together * number; j++) sums[j] = _mm512_setzero_si512();
    for (int64_t i = 0; i < half; i += 64, packed += 64) {
        __mmask64 valid = half - i < 64 ? (1ULL << (half - i)) - 1 : ~0ULL;
        __m512i first[4], second[4];
#pragma GCC unroll 4
        for (int k = 0; k < together; k++) {
            __m512i both = _mm512_maskz_loadu_epi8(valid, rows[k] + i);
            first[k] = _mm512_and_si512(both, four);
            second[k] = _mm512_and_si512(_mm512_srli_epi16(both, 4), four);
        }
#pragma GCC unroll 4
        for (int j = 0; j < number; j++) {
            const int8_t *codes = packed + 2 * j * wide;
            __m512i one = _mm512_load_si512((const void *)codes);
            __m512i other = _mm512_load_si512((const void *)(codes + wide));
#pragma GCC unroll 4
            for (int k = 0; k < together; k++) {
                __m512i *sum = sums + k * number + j;
                *sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(*sum, first[k], one), second[k],
                                           other);
            }
        }
    }
}

AVX512 INLINE __m128i sums_of_16(__m512i a, __m512i b, __m512i c, __m512i d) {
    __m512i one = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i two = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    one = _mm512_add_epi32(_mm512_unpacklo_epi64(one, two), _mm512_unpackhi_epi64(one, two));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(one), _mm512_extracti64x4_epi64(one, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* Multiply four rows at a time, in the order of memory, and add up their sums together. Store no
 * more sums than there are rows: after a tile's last sum comes the next query's first. */
AVX512 INLINE void few_avx512(const Scan *scan, const int8_t *rows, int64_t count, int number,
                              int32_t *out) {
    for (int64_t r = 0; r < count; r += 4) {
        const int8_t *four[4];
        __m512i sums[4 * FEW];
        fetch_ahead(scan, rows + r * scan->half);
        __mmask8 valid = (__mmask8)(count - r < 4 ? (1 << (count - r)) - 1 : 15);
        for (int k = 0; k < 4; k++) four[k] = rows + (r + k < count ? r + k : count - 1) * scan->half;
        rows_avx512(scan, four, scan->rowwise, 4, number, sums);
        for (int j = 0; j < number; j++)
            _mm_mask_storeu_epi32(out + j * TILE + r, valid,
                                  sums_of_16(sums[j], sums[number + j], sums[2 * number + j],
                                             sums[3 * number + j]));
    }
}

AVX512 static void halves_avx512(const Scan *scan, const int8_t *rows, int64_t count,
                                 int32_t *out) {
    BY_NUMBER(few_avx512)
}

AVX512 static int32_t half_avx512(const Scan *scan, const int8_t *row, int64_t number) {
    __m512i sum;
    rows_avx512(scan, &row, scan->rowwise + 2 * number * scan->wide, 1, 1, &sum);
    return _mm512_reduce_add_epi32(sum);
}

AVX512 static int scan_avx512(Scan *scan) {
    if (scan->count > FEW) return look_through_many(scan, arrange_avx512, multiply_avx512, NULL);
    return look_through_halves(scan, halves_avx512, half_avx512);
}

/* Turn 8 rows of 32 bytes into 8 columns of four. */
AVX2 INLINE void transpose_8(__m256i *to, const int8_t *rows, int64_t count, int64_t stride,
                             int64_t left) {
    __m256i a[8], b[8];
    for (int r = 0; r < 8; r++) {
        const int8_t *row = rows + (r < count ? r : count - 1) * stride;
        if (left >= 32) {
            a[r] = _mm256_loadu_si256((const __m256i *)row);
        } else {
            int8_t codes[32] = {0};
            memcpy(codes, row, (size_t)left);
            a[r] = _mm256_loadu_si256((const __m256i *)codes);
        }
    }
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        to[j] = _mm256_permute2x128_si256(a[j], a[4 + j], 0x20);
        to[4 + j] = _mm256_permute2x128_si256(a[j], a[4 + j], 0x31);
    }
}

/* Arrange halves of codes: first those in the lower bits of bytes, then those in the upper bits. */
AVX2 static void arrange_avx2(const Scan *scan, const int8_t *rows, int64_t count, int8_t *tile) {
    const __m256i four = _mm256_set1_epi8(15);
    int64_t bytes = scan->half, seconds = scan->seconds;
    for (int64_t r = 0; r < count; r += 8)
        for (int64_t place = 0; place < bytes; place += 32) {
            __m256i both[8];
            int64_t c = place / 4, last = c + 8 < seconds ? c + 8 : seconds;
            transpose_8(both, rows + r * scan->stride + place, count - r, scan->stride,
                        bytes - place);
            for (int64_t i = 0; c + i < last; i++)
                _mm256_store_si256((__m256i *)(tile + (c + i) * 4 * TILE + r * 4),
                                   _mm256_and_si256(both[i], four));
            c += seconds;
            last = c + 8 < scan->columns ? c + 8 : scan->columns;
            for (int64_t i = 0; c + i < last; i++)
                _mm256_store_si256((__m256i *)(tile + (c + i) * 4 * TILE + r * 4),
                                   _mm256_and_si256(_mm256_srli_epi16(both[i], 4), four));
        }
}

AVX2 static void multiply_avx2(const Scan *scan, const int8_t *tile, int64_t count, int64_t first,
                               int32_t *out) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int half = 0; half < GROUP; half += 4)
        for (int r = 0; r < (count > 16 ? 4 : 2); r += 2) {
            __m256i sums[8];
            for (int j = 0; j < 8; j++) sums[j] = _mm256_setzero_si256();
            const __m256i *from = (const __m256i *)tile + r;
            const int32_t *codes = (const int32_t *)scan->packed + first * scan->columns + half;
            for (int64_t c = 0; c < scan->columns; c += NARROW) {
                __m256i some[8];
                for (int j = 0; j < 8; j++) some[j] = _mm256_setzero_si256();
/* If the loop were unrolled completely, the sums would not stay in registers. */
#pragma GCC unroll 2
                for (int k = 0; k < NARROW; k++, from += 4, codes += GROUP) {
                    __m256i low = _mm256_load_si256(from), high = _mm256_load_si256(from + 1);
                    if (!first && !half && !r) fetch_of_next(scan, c + k);
                    for (int j = 0; j < 4; j++) {
                        __m256i one = _mm256_set1_epi32(codes[j]);
                        some[j] = _mm256_add_epi16(some[j], _mm256_maddubs_epi16(low, one));
                        some[4 + j] =
                            _mm256_add_epi16(some[4 + j], _mm256_maddubs_epi16(high, one));
                    }
                }
                for (int j = 0; j < 8; j++)
                    sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(some[j], ones));
            }
            for (int j = 0; j < 4; j++) {
                int32_t *to = out + (half + j) * TILE + r * 8;
                _mm256_storeu_si256((__m256i *)to, sums[j]);
                _mm256_storeu_si256((__m256i *)(to + 8), sums[4 + j]);
            }
        }
}

AVX2 INLINE __m128i sums_of_8(__m256i a, __m256i b, __m256i c, __m256i d) {
    __m256i both = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
}

/* Sums of four times four products of four bits with codes of at most 127 fit into 16 bits. */
AVX2 INLINE void add_halves_avx2(__m256i both, const int8_t *codes, int64_t wide, int number,
                                 __m256i *some) {
    const __m256i four = _mm256_set1_epi8(15);
    __m256i first = _mm256_and_si256(both, four);
    __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), four);
#pragma GCC unroll 4
    for (int j = 0; j < number; j++, codes += 2 * wide) {
        __m256i one = _mm256_maddubs_epi16(first, _mm256_load_si256((const __m256i *)codes));
        __m256i other =
            _mm256_maddubs_epi16(second, _mm256_load_si256((const __m256i *)(codes + wide)));
        some[j] = _mm256_add_epi16(some[j], _mm256_add_epi16(one, other));
    }
}

/* Multiply `together` rows with `number` queries. Both are constants where this is inlined. The
 * queries' codes beyond a row's last are 0, so the bytes there may belong to the next row; if
 * reading them would go beyond `end`, the row's last bytes are copied. */
AVX2 INLINE void rows_avx2(const Scan *scan, const int8_t *const *rows, const int8_t *end,
                           const int8_t *packed, int together, int number, __m256i *sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    int64_t i = 0, half = scan->half, wide = scan->wide;
    __m256i some[4 * FEW];
    for (int j = 0; j < together * number; j++) sums[j] = _mm256_setzero_si256();
    while (i < half) {
        for (int j = 0; j < together * number; j++) some[j] = _mm256_setzero_si256();
        int64_t last = half - i < 128 ? half : i + 128;
        for (; i + 32 <= last; i += 32)
#pragma GCC unroll 4
            for (int k = 0; k < together; k++)
                add_halves_avx2(_mm256_loadu_si256((const __m256i *)(rows[k] + i)), packed + i, wide,
                                number, some + k * number);
        if (i < last) {
            for (int k = 0; k < together; k++) {
                uint8_t bytes[32];
                int inside = rows[k] + i + 32 <= end;
                if (!inside) end_of(rows[k] + i, half - i, 32, bytes);
                const void *from = inside ? (const void *)(rows[k] + i) : bytes;
                add_halves_avx2(_mm256_loadu_si256(from), packed + i, wide, number,
                                some + k * number);
            }
            i = last;
        }
        for (int j = 0; j < together * number; j++)
            sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(some[j], ones));
    }
}

AVX2 INLINE void few_avx2(const Scan *scan, const int8_t *rows, int64_t count, int number,
                          int32_t *out) {
    const int8_t *end = rows + count * scan->half;
    for (int64_t r = 0; r < count; r += 4) {
        const int8_t *four[4];
        __m256i sums[4 * FEW];
        fetch_ahead(scan, rows + r * scan->half);
        for (int k = 0; k < 4; k++) four[k] = rows + (r + k < count ? r + k : count - 1) * scan->half;
        /* More sums than these would not stay in registers. */
        const int together = number > 1 ? 2 : 4;
        for (int k = 0; k < 4; k += together)
            rows_avx2(scan, four + k, end, scan->rowwise, together, number, sums + k * number);
        for (int j = 0; j < number; j++) {
            int32_t own[4];
            _mm_storeu_si128((__m128i *)own, sums_of_8(sums[j], sums[number + j],
                                                       sums[2 * number + j], sums[3 * number + j]));
            memcpy(out + j * TILE + r, own, (size_t)(count - r < 4 ? count - r : 4) * 4);
        }
    }
}

AVX2 static void halves_avx2(const Scan *scan, const int8_t *rows, int64_t count, int32_t *out) {
    BY_NUMBER(few_avx2)
}

AVX2 static int32_t half_avx2(const Scan *scan, const int8_t *row, int64_t number) {
    __m256i sum, none = _mm256_setzero_si256();
    rows_avx2(scan, &row, row + scan->half, scan->rowwise + 2 * number * scan->wide, 1, 1, &sum);
    return _mm_cvtsi128_si32(sums_of_8(sum, none, none, none));
}

AVX2 static int scan_avx2(Scan *scan) {
    if (scan->count > FEW) return look_through_many(scan, arrange_avx2, multiply_avx2, half_avx2);
    return look_through_halves(scan, halves_avx2, half_avx2);
}

#endif /* X86 */

#if ARM

#if MICROSOFT || defined(__ARM_FEATURE_DOTPROD)
#define DOTPROD
#elif defined(__clang__)
#define DOTPROD __attribute__((target("dotprod")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

/* Put codes into columns of four, one for each lane: column c of row r is at (c * TILE + r) * 4. */
static void arrange_neon(const Scan *scan, const int8_t *rows, int64_t count, int8_t *tile) {
    for (int64_t r = 0; r < count; r++, rows += scan->stride)
        for (int64_t i = 0; i < scan->dim; i++) tile[(i / 4 * TILE + r) * 4 + i % 4] = rows[i];
}

DOTPROD static void multiply_neon(const Scan *scan, const int8_t *tile, int64_t count,
                                  int64_t first, int32_t *out) {
    (void)count;
    const int8_t *queries = scan->packed + first * scan->columns * 4;
    for (int half = 0; half < GROUP; half += 4)
        for (int r = 0; r < TILE; r += 16) {
            int32x4_t sums[16];
            for (int j = 0; j < 16; j++) sums[j] = vdupq_n_s32(0);
            const int8_t *from = tile + r * 4;
            const int8_t *codes = queries + half * 4;
            for (int64_t c = 0; c < scan->columns; c++, from += 4 * TILE, codes += 4 * GROUP) {
                int8x16_t own = vld1q_s8(codes);
                if (!first && !half && !r) fetch_of_next(scan, c);
                for (int v = 0; v < 4; v++) {
                    int8x16_t part = vld1q_s8(from + 16 * v);
                    sums[v] = vdotq_laneq_s32(sums[v], part, own, 0);
                    sums[4 + v] = vdotq_laneq_s32(sums[4 + v], part, own, 1);
                    sums[8 + v] = vdotq_laneq_s32(sums[8 + v], part, own, 2);
                    sums[12 + v] = vdotq_laneq_s32(sums[12 + v], part, own, 3);
                }
            }
            for (int j = 0; j < 16; j++)
                vst1q_s32(out + (half + j / 4) * TILE + r + j % 4 * 4, sums[j]);
        }
}

/* Multiply `together` rows with `number` queries: rows_avx2 for this processor. */
DOTPROD INLINE void rows_neon(const Scan *scan, const int8_t *const *rows, const int8_t *packed,
                              int together, int number, int32x4_t *sums) {
    int64_t half = scan->half;
    for (int j = 0; j < together * number; j++) sums[j] = vdupq_n_s32(0);
    for (int64_t i = 0; i < half; i += 16)
        for (int k = 0; k < together; k++) {
            uint8_t end[16];
            if (i + 16 > half) end_of(rows[k] + i, half - i, 16, end);
            uint8x16_t both = vld1q_u8(i + 16 > half ? end : (const uint8_t *)rows[k] + i);
            int8x16_t first = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
            int8x16_t second = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
            int32x4_t *own = sums + k * number;
            for (int j = 0; j < number; j++) {
                const int8_t *codes = packed + 2 * j * scan->wide + i;
                own[j] = vdotq_s32(own[j], first, vld1q_s8(codes));
                own[j] = vdotq_s32(own[j], second, vld1q_s8(codes + scan->wide));
            }
        }
}

DOTPROD INLINE void few_neon(const Scan *scan, const int8_t *rows, int64_t count, int number,
                             int32_t *out) {
    for (int64_t r = 0; r < count; r += 4) {
        const int8_t *four[4];
        int32x4_t sums[4 * FEW];
        fetch_ahead(scan, rows + r * scan->half);
        for (int k = 0; k < 4; k++) four[k] = rows + (r + k < count ? r + k : count - 1) * scan->half;
        rows_neon(scan, four, scan->rowwise, 4, number, sums);
        for (int j = 0; j < number; j++)
            for (int k = 0; k < 4 && r + k < count; k++)
                out[j * TILE + r + k] = vaddvq_s32(sums[k * number + j]);
    }
}

DOTPROD static void halves_neon(const Scan *scan, const int8_t *rows, int64_t count, int32_t *out) {
    BY_NUMBER(few_neon)
}

DOTPROD static int32_t half_neon(const Scan *scan, const int8_t *row, int64_t number) {
    int32x4_t sum;
    rows_neon(scan, &row, scan->rowwise + 2 * number * scan->wide, 1, 1, &sum);
    return vaddvq_s32(sum);
}

DOTPROD static int scan_neon(Scan *scan) {
    if (scan->count > FEW) return look_through_many(scan, arrange_neon, multiply_neon, NULL);
    return look_through_halves(scan, halves_neon, half_neon);
}

#endif /* ARM */

/* The kinds of scan that this processor can run */

enum { PORTABLE, AVX2_, AVX512_, NEON_, KINDS };

#if X86
#if MICROSOFT
static void cpuid(unsigned leaf, unsigned sub, unsigned found[4]) {
    __cpuidex((int *)found, (int)leaf, (int)sub);
}
static uint64_t state_kept(void) { return _xgetbv(0); }
#else
#include <cpuid.h>
static void cpuid(unsigned leaf, unsigned sub, unsigned found[4]) {
    __cpuid_count(leaf, sub, found[0], found[1], found[2], found[3]);
}
static uint64_t state_kept(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}
#endif

static unsigned kinds_here(void) {
    unsigned found[4], kinds = 1u << PORTABLE;
    cpuid(0, 0, found);
    if (found[0] < 7) return kinds;
    cpuid(1, 0, found);
    unsigned wanted = 1u << 27 | 1u << 28 | 1u << 12 | 1u << 23; /* OSXSAVE, AVX, FMA, POPCNT */
    if ((found[2] & wanted) != wanted) return kinds;
    uint64_t kept = state_kept();
    if ((kept & 0x6) != 0x6) return kinds;
    cpuid(7, 0, found);
    unsigned b = found[1], c = found[2];
    if (!(b >> 5 & 1)) return kinds;
    kinds |= 1u << AVX2_;
    /* F, DQ, BW, VL, and VNNI */
    if ((kept & 0xe6) == 0xe6 && b >> 16 & 1 && b >> 17 & 1 && b >> 30 & 1 && b >> 31 & 1 &&
        c >> 11 & 1)
        kinds |= 1u << AVX512_;
    return kinds;
}
#elif ARM
#if defined(__linux__)
#include <sys/auxv.h>
static unsigned kinds_here(void) {
    return 1u << PORTABLE | (getauxval(AT_HWCAP) >> 20 & 1 ? 1u << NEON_ : 0);
}
#elif defined(_WIN32) /* Windows has its own number for this feature */
#include <windows.h>
static unsigned kinds_here(void) {
    return 1u << PORTABLE | (IsProcessorFeaturePresent(43) ? 1u << NEON_ : 0);
}
#elif defined(__APPLE__) /* every Mac with such a processor has it */
static unsigned kinds_here(void) { return 1u << PORTABLE | 1u << NEON_; }
#else
static unsigned kinds_here(void) { return 1u << PORTABLE; }
#endif
#else
static unsigned kinds_here(void) { return 1u << PORTABLE; }
#endif

static LookThrough *const SCANS[KINDS] = {
    scan_portable,
#if X86
    scan_avx2, scan_avx512, NULL,
#elif ARM
    NULL, NULL, scan_neon,
#endif
};

/* Pack many queries in groups, in columns of four codes, as their kernel has the rows. If halves
 * are multiplied one by one, the second half begins at a new column. Queries beyond the last are 0,
 * and so are columns beyond the last code. */
static void pack_columns(Scan *scan, int64_t half) {
    for (int64_t number = 0; number < scan->count; number++) {
        const int8_t *codes = scan->queries[number].codes;
        int8_t *group = scan->packed + number / GROUP * GROUP * scan->columns * 4;
        for (int64_t i = 0; i < scan->dim; i++) {
            int64_t at = i < half ? i : 4 * scan->seconds + i - half;
            group[(at / 4 * GROUP + number % GROUP) * 4 + at % 4] = codes[i];
        }
    }
}

/* Pack queries for rows in halves: the factors of the first code in each byte, then of the second.
 * Also set `sum`, `size` and `inverse`. */
static void pack_rowwise(Scan *scan) {
    int64_t half = scan->half;
    for (int64_t number = 0; number < scan->count; number++) {
        Query *query = &scan->queries[number];
        const int8_t *codes = query->codes;
        int8_t *to = scan->rowwise + 2 * number * scan->wide;
        double squares = 0;
        for (int64_t i = 0; i < scan->dim; i++) {
            squares += (double)codes[i] * codes[i];
            query->sum += 128 * codes[i];
        }
        memcpy(to, codes, (size_t)half);
        memcpy(to + scan->wide, codes + half, (size_t)(scan->dim - half));
        query->size = sqrt(squares);
        query->inverse = (float)(1 / query->scale);
    }
}

/* Split the codes of rows into halves of `half` bytes. Return four times the largest squared length
 * of a row's lower halves minus 7.5. */
EXPORTED int64_t aiovec_scan_halve(const int8_t *codes, int64_t rows, int64_t half,
                                   int8_t *restrict upper, int8_t *restrict lower) {
    int32_t largest = 0;
    for (int64_t r = 0; r < rows; r++, codes += 2 * half, upper += half, lower += half) {
        int32_t squares = 0;
        for (int64_t i = 0; i < half; i++) {
            uint8_t first = (uint8_t)codes[i] ^ 128, second = (uint8_t)codes[half + i] ^ 128;
            upper[i] = (int8_t)(first >> 4 | (second & 240));
            lower[i] = (int8_t)((first & 15) | (second << 4 & 240));
            int16_t one = (int16_t)(2 * (first & 15) - 15), other = (int16_t)(2 * (second & 15) - 15);
            squares += one * one + other * other;
        }
        if (squares > largest) largest = squares;
    }
    return largest;
}

/* Order candidates by query, then the best first. Damaged rows, whose value is not a number, come
 * last. */
static int by_value(const void *one, const void *other) {
    const Found *a = one, *b = other;
    if (a->query != b->query) return a->query - b->query;
    if (a->value < b->value) return 1;
    return a->value > b->value ? -1 : (a->value != a->value) - (b->value != b->value);
}

/* The true distances of candidates, in float64, equal to those from distance.py to the last bit:
 * the same operations in the same order. So products are never fused with sums (build.py tells the
 * compiler), and sums are computed pairwise, as in NumPy. */

enum { COSINE, EUCLIDEAN, DOT };

/* Cosine distances below this are measured by differences. */
#define NEAR_ANGLE 0.25
/* Cuts a double into an upper part of 29 bits and the rest. */
#define CUT 16777217.0
/* 2^-50: the square of an error of `share` that is too small to matter. */
#define ALONG 8.8817841970012523e-16
/* 2^-156: the squared sine below which a double cannot tell an angle from 0. */
#define NO_ANGLE 1.0947644252537633e-47

static double sum_of(const double *terms, int64_t count) {
    if (count > 128) {
        int64_t half = count / 2;
        half -= half % 8;
        return sum_of(terms, half) + sum_of(terms + half, count - half);
    }
    int64_t place = 0;
    double sum = 0;
    if (count >= 8) {
        double sums[8];
        for (int i = 0; i < 8; i++) sums[i] = terms[i];
        for (place = 8; place + 8 <= count; place += 8)
            for (int i = 0; i < 8; i++) sums[i] += terms[place + i];
        sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
              ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    }
    for (; place < count; place++) sum += terms[place];
    return sum;
}

static double square_of(const float *of, double *terms, int64_t dim) {
    for (int64_t i = 0; i < dim; i++) terms[i] = (double)of[i] * (double)of[i];
    return sum_of(terms, dim);
}

static double square_of_rest(const double *rest, double *terms, int64_t dim) {
    for (int64_t i = 0; i < dim; i++) terms[i] = rest[i] * rest[i];
    return sum_of(terms, dim);
}

/* `terms` and `rest` are room for dim numbers each; `of_point` is the square of the point. */
static double cosine_of(const float *row, const float *point, double of_point, double *terms,
                        double *rest, int64_t dim) {
    for (int64_t i = 0; i < dim; i++) terms[i] = (double)row[i] * (double)point[i];
    double product = sum_of(terms, dim), of_row = square_of(row, terms, dim);
    double cosine = product / (sqrt(of_row) * sqrt(of_point));
    double found = 1.0 - (cosine < -1.0 ? -1.0 : cosine > 1.0 ? 1.0 : cosine);
    if (!(found < NEAR_ANGLE)) return found;
    double share = product / of_point, cut = share * CUT, upper = cut - (cut - share);
    double lower = share - upper;
    for (int64_t i = 0; i < dim; i++) {
        double p = (double)point[i], left = (double)row[i] - upper * p;
        rest[i] = left - lower * p;
    }
    double squares = square_of_rest(rest, terms, dim);
    for (int64_t i = 0; i < dim; i++) terms[i] = rest[i] * (double)point[i];
    double along = sum_of(terms, dim);
    if (along * along > ALONG * squares * of_point) {
        double off = along / of_point;
        for (int64_t i = 0; i < dim; i++) rest[i] -= off * (double)point[i];
        squares = square_of_rest(rest, terms, dim);
    }
    double sine = squares / of_row;
    if (sine < NO_ANGLE) sine = 0.0;
    return sine / (1.0 + sqrt(1.0 - sine));
}

static double euclidean_of(const float *row, const float *point, double *terms, int64_t dim) {
    for (int64_t i = 0; i < dim; i++) {
        double apart = (double)row[i] - (double)point[i];
        terms[i] = apart * apart;
    }
    return sqrt(sum_of(terms, dim));
}

static double dot_of(const float *row, const float *point, double *terms, double *rest,
                     int64_t dim) {
    double largest = 0.0;
    int exponent, bits = 0;
    for (int64_t i = 0; i < dim; i++) {
        rest[i] = (double)row[i] * (double)point[i];
        double size = fabs(rest[i]);
        if (!(size <= largest)) largest = size;
    }
    frexp(largest, &exponent);
    for (int64_t left = dim; left; left >>= 1) bits++;
    double border = ldexp(1.5, exponent + bits + 1);
    for (int64_t i = 0; i < dim; i++) {
        double upper = (rest[i] + border) - border;
        terms[i] = upper;
        rest[i] -= upper;
    }
    double upper = sum_of(terms, dim);
    return -(upper + sum_of(rest, dim));
}

static double distance_of(const float *row, const float *point, double of_point, double *terms,
                          int64_t dim, int64_t metric) {
    double *rest = terms + dim;
    if (metric == EUCLIDEAN) return euclidean_of(row, point, terms, dim);
    if (metric == DOT) return dot_of(row, point, terms, rest, dim);
    return cosine_of(row, point, of_point, terms, rest, dim);
}

/* Write the distances of pairs: a row of `vectors` and one of `points`, each by its number. Return
 * 1, or -1 if there is no memory. */
EXPORTED int64_t aiovec_scan_distances(const float *vectors, const int64_t *rows,
                                       const float *points, const int64_t *which, int64_t count,
                                       int64_t dim, int64_t metric, double *distances) {
    double *terms = malloc((size_t)(2 * dim + 1) * sizeof(double)), of_point = 0;
    if (!terms) return -1;
    const float *last = NULL;
    for (int64_t i = 0; i < count; i++) {
        const float *row = vectors + rows[i] * dim, *point = points + which[i] * dim;
        if (point != last) of_point = square_of(point, terms, dim);
        last = point;
        distances[i] = distance_of(row, point, of_point, terms, dim, metric);
    }
    free(terms);
    return 1;
}

/* Return a lower bound for the value of a row at this distance. `hair` is the relative error of the
 * distance's sum in float64; no row is longer than `longest`. */
static double value_of(double distance, double of_point, double longest, double hair,
                       int64_t metric) {
    double length = sqrt(of_point);
    if (metric == COSINE) return 1.0 - distance - 4 * hair;
    if (metric == DOT) return -distance - hair * length * longest;
    double most = 2 * length + distance;
    return (of_point - distance * distance) / 2 - hair * (most * most);
}

/* Measure the candidates, and keep each query's nearest rows, in order, including ties with the
 * last. The likeliest `wanted` candidates are measured first; their distances exclude most of the
 * others. A row's value becomes its negated distance. */
static void settle(const Query *queries, const Segment *segments, const float *points,
                   int64_t count, int64_t dim, int64_t metric, double longest, double *terms,
                   Found *found, int64_t *ends) {
    double hair = (double)(dim + 32) * 0x1p-50;
    int64_t next = 0, kept = 0;
    for (int64_t i = 0; i < count; i++) {
        const float *point = points + i * dim;
        double of_point = square_of(point, terms, dim), reached = -INFINITY, farthest = -INFINITY;
        int64_t start = kept, last = start + queries[i].wanted;
        for (int64_t number = 0; next < ends[i]; next++, number++) {
            Found one = found[next];
            if (number == queries[i].wanted)
                reached = value_of(farthest, of_point, longest, hair, metric);
            if (one.value + one.miss < reached) continue;
            const float *row = segments[one.segment].vectors + one.row * dim;
            double distance = distance_of(row, point, of_point, terms, dim, metric);
            if (distance > farthest) farthest = distance;
            one.value = -distance;
            found[kept++] = one;
        }
        qsort(found + start, (size_t)(kept - start), sizeof(Found), by_value);
        if (kept > last) {
            while (last < kept && found[last].value == found[last - 1].value) last++;
            kept = last;
        }
        ends[i] = kept;
    }
}

/* Encode a query and its part of the bound, in float64. `terms` has room for 2 * dim numbers. */
static void encode(Query *query, const float *point, int64_t dim, int64_t metric, int8_t *codes,
                   double *terms) {
    double length = sqrt(square_of(point, terms, dim)), *exact = terms + dim;
    double share = share_of(dim), largest = 0;
    for (int64_t i = 0; i < dim; i++) {
        exact[i] = metric == COSINE ? (double)point[i] / length : (double)point[i];
        if (fabs(exact[i]) > largest) largest = fabs(exact[i]);
    }
    if (metric == COSINE) length = 1;
    double scale = (largest > 0 ? largest : 1) / 127;
    for (int64_t i = 0; i < dim; i++) {
        double code = rint(exact[i] / scale), left = exact[i] - scale * code;
        codes[i] = (int8_t)code;
        terms[i] = left * left;
    }
    query->codes = codes;
    query->scale = scale;
    query->length = length * (1 + share);
    /* Rounding is relative to the value by codes, so it adds to what the codes leave out. */
    query->slack = sqrt(sum_of(terms, dim)) + share * length;
    query->blur = metric == EUCLIDEAN ? share * 0x1p-26 * length * length : 0;
    query->floor = -INFINITY;
}

/* A search that threads share */

/* The results of one thread. */
typedef struct {
    Answer answer;
    Query *queries; /* followed by their heaps of lower ends */
} Part;

typedef struct {
    Scan common; /* what all threads have in common */
    int64_t kind, number, metric;
    const float *points;
    double longest;
    const int8_t *stop;
    int64_t unit;   /* rows that a thread takes at a time */
    int64_t lowers; /* lower ends of all queries together */
    int8_t *room;   /* for the queries' codes and the next two */
    int64_t *ends;
    int32_t *floors; /* of the queries, as float32 rounded down */
    int32_t parts, begun, next, failed, settled;
    Part *part; /* `parts` of them; the first one gets the results of all at the end */
} Search;

EXPORTED int64_t aiovec_scan_version(void) { return VERSION; }

/* Return a bit for each kind of scan that can run here. */
EXPORTED int64_t aiovec_scan_kinds(void) { return kinds_here(); }

EXPORTED void aiovec_scan_free(Search *search) {
    if (!search) return;
    for (int32_t i = 0; search->part && i < search->parts; i++) {
        free(search->part[i].answer.found);
        free(search->part[i].queries);
    }
    free(search->part);
    free(search->common.queries);
    free(search->room);
    free(search);
}

/* Return the beginning of the next line of the processor's cache. */
INLINE int8_t *at_line(int8_t *room) { return room + (LINE - ((uintptr_t)room & (LINE - 1))); }

/* Begin a search for the rows nearest to points, `wanted` of each, by at most `parts` threads, each of
 * which takes `unit` rows at a time. `masks` has for each segment and query a byte for each row, 0
 * or 1, or NULL for all rows. No row is longer than `longest`. If `stop` becomes true, the result
 * is incomplete. All arguments must outlive the search. Return NULL if there is no memory. */
EXPORTED Search *aiovec_scan_begin(int64_t kind, const Segment *segments, int64_t number,
                                   const uint8_t *const *masks, const float *points,
                                   const int64_t *wanted, int64_t count, int64_t dim,
                                   int64_t metric, double longest, const int8_t *stop,
                                   int64_t parts, int64_t unit) {
    int64_t half = (dim + 1) / 2, wide = (half + LINE - 1) / LINE * LINE;
    /* The AVX2 kernel for many queries multiplies the halves of codes one by one. */
    int64_t first = kind == AVX2_ ? half : dim, seconds = (first + 3) / 4;
    int64_t columns = (seconds + (dim - first + 3) / 4 + NARROW - 1) / NARROW * NARROW;
    int64_t padded = (count + GROUP - 1) / GROUP * GROUP, rows = 0;
    size_t of_rowwise = (size_t)(2 * count * wide);
    size_t of_packed = count <= FEW ? 0 : (size_t)(padded * columns * 4);
    size_t of_each = sizeof(int64_t) + sizeof(int32_t) + (size_t)dim;
    double *terms = malloc((size_t)(2 * dim) * sizeof(double));
    Query *queries = calloc((size_t)(count + GROUP), sizeof(Query));
    int8_t *room = calloc(1, LINE + of_rowwise + of_packed + (size_t)count * of_each);
    Part *part = calloc((size_t)parts, sizeof(Part));
    Search *search = calloc(1, sizeof(Search));
    if (!terms || !queries || !room || !part || !search)
        return free(terms), free(queries), free(room), free(part), free(search), NULL;
    int8_t *rowwise = at_line(room), *packed = rowwise + of_rowwise;
    int64_t *ends = (int64_t *)(packed + of_packed);
    int32_t *floors = (int32_t *)(ends + count);
    int8_t *codes = (int8_t *)(floors + count);
    *search = (Search){
        {.segments = segments, .masks = masks, .queries = queries, .count = count, .dim = dim,
         .share = share_of(dim), .l2 = metric == EUCLIDEAN, .half = half,
         .stride = kind == AVX2_ ? half : 2 * half, .rowwise = rowwise, .packed = packed,
         .wide = wide, .columns = columns, .seconds = seconds},
        .kind = kind, .number = number, .metric = metric, .points = points, .longest = longest,
        .stop = stop, .unit = (unit + TILE - 1) / TILE * TILE, .room = room, .ends = ends,
        .floors = floors, .parts = (int32_t)parts, .part = part};
    for (int64_t i = 0; i < number; i++) rows += segments[i].rows;
    for (int64_t i = 0; i < count; i++) {
        float floor = -INFINITY;
        encode(&queries[i], points + i * dim, dim, metric, codes + i * dim, terms);
        queries[i].wanted = wanted[i] < rows ? wanted[i] : rows;
        search->lowers += queries[i].wanted;
        memcpy(&floors[i], &floor, sizeof floor);
    }
    pack_rowwise(&search->common);
    if (count > FEW) pack_columns(&search->common, first);
    free(terms);
    return search;
}

/* Adopt higher floors from other threads, and publish higher ones: enough rows of some thread reach
 * each floor. If two threads write at the same time, either floor is valid. */
static void share_floors(Search *search, Query *queries) {
    for (int64_t i = 0; i < search->common.count; i++) {
        int32_t bits = SEEN(&search->floors[i]);
        float floor = (float)queries[i].floor, known;
        if (floor > queries[i].floor) floor = nextafterf(floor, -INFINITY);
        memcpy(&known, &bits, sizeof known);
        memcpy(&bits, &floor, sizeof bits);
        if (floor > known) PUT(&search->floors[i], bits);
        if (known > queries[i].floor) queries[i].floor = known;
    }
}

/* Allocate a thread's candidates and queries, and return room for a tile's rows, which the caller
 * frees. Return NULL if there is no memory. */
static int8_t *part_room(const Search *search, Part *part, Scan *scan) {
    int64_t count = scan->count, few = count <= FEW;
    size_t of_queries = (size_t)(count + GROUP) * sizeof(Query);
    /* There is room for whole transposed blocks. */
    size_t of_tile = few ? 0 : (size_t)((scan->columns + 16) * 4 * TILE);
    int8_t *room = malloc(2 * of_tile + (few ? 0 : (size_t)(2 * scan->half * TILE)) + LINE);
    part->answer.room = FOUND * count + FOUND_FOR_EACH * search->lowers;
    part->answer.found = malloc((size_t)part->answer.room * sizeof(Found));
    part->queries = malloc(of_queries + (size_t)search->lowers * sizeof(double));
    if (!room || !part->answer.found || !part->queries) return free(room), NULL;
    memcpy(part->queries, scan->queries, of_queries);
    double *heap = (double *)(part->queries + count + GROUP);
    for (int64_t i = 0; i < count; heap += part->queries[i++].wanted) part->queries[i].lowers = heap;
    scan->queries = part->queries;
    scan->answer = &part->answer;
    scan->tile = at_line(room);
    scan->lower = scan->tile + of_tile;
    scan->whole = scan->lower + of_tile;
    return room;
}

/* Scan until no rows are left, while other threads do the same. */
EXPORTED void aiovec_scan_part(Search *search) {
    int32_t number = TAKE(&search->begun);
    if (number >= search->parts) return;
    Scan scan = search->common;
    int8_t *room = part_room(search, &search->part[number], &scan);
    int done = room != NULL;
    int64_t segment = 0, before = 0, size = search->unit; /* units of the segments before */
    while (done && !SEEN(&search->failed) && !ENDED(search->stop)) {
        int64_t unit = TAKE(&search->next);
        for (; segment < search->number; segment++) {
            int64_t units = (scan.segments[segment].rows + size - 1) / size;
            if (unit < before + units) break;
            before += units;
        }
        if (segment == search->number) break;
        share_floors(search, scan.queries);
        begin(&scan, segment, (unit - before) * size, size);
        done = SCANS[search->kind](&scan);
    }
    if (!done) TAKE(&search->failed);
    free(room);
}

/* Merge the threads' candidates, and measure them. Return 0 if there is no memory. */
static int merge(Search *search) {
    Query *queries = search->part[0].queries;
    Answer *all = &search->part[0].answer;
    int64_t count = search->common.count, dim = search->common.dim, total = 0;
    for (int32_t i = 0; i < search->parts; i++) total += search->part[i].answer.count;
    if (total > all->room) {
        Found *larger = realloc(all->found, (size_t)total * sizeof(Found));
        if (!larger) return 0;
        all->found = larger;
        all->room = total;
    }
    double *terms = malloc((size_t)(2 * dim) * sizeof(double));
    if (!terms) return 0;
    for (int32_t i = 1; i < search->parts; i++) {
        const Part *part = &search->part[i];
        if (!part->queries) continue; /* that thread has not begun */
        memcpy(all->found + all->count, part->answer.found,
               (size_t)part->answer.count * sizeof(Found));
        all->count += part->answer.count;
        for (int64_t j = 0; j < count; j++) {
            const Query *own = &part->queries[j];
            for (int64_t k = 0; k < own->known; k++) push_lower(&queries[j], own->lowers[k]);
            queries[j].floor = fmax(queries[j].floor, own->floor);
        }
    }
    for (int64_t j = 0; j < count; j++)
        if (queries[j].known && queries[j].known == queries[j].wanted)
            queries[j].floor = fmax(queries[j].floor, queries[j].lowers[0]);
    drop_excluded(queries, all);
    qsort(all->found, (size_t)all->count, sizeof(Found), by_value);
    for (int64_t i = 0, place = 0; i < count; search->ends[i++] = place)
        while (place < all->count && all->found[place].query == i) place++;
    settle(queries, search->common.segments, search->points, count, dim, search->metric,
           search->longest, terms, all->found, search->ends);
    free(terms);
    return 1;
}

/* End a search after all threads have ended. Write the nearest rows to `rowids`, their distances to
 * `distances`, their vectors to `vectors` unless it is NULL, and the end of each query's rows to
 * `ends`. Return the number of rows; if it is more than `room`, only `ends` is written, and this can
 * be called again. Return -1 if there was no memory, here or in a thread. */
EXPORTED int64_t aiovec_scan_end(Search *search, int64_t room, int64_t *ends, int64_t *rowids,
                                 double *distances, float *vectors) {
    int64_t count = search->common.count, dim = search->common.dim;
    if (search->failed || !search->begun) return -1;
    if (!search->settled && !merge(search)) return -1;
    search->settled = 1;
    memcpy(ends, search->ends, (size_t)count * sizeof(int64_t));
    int64_t total = ends[count - 1];
    for (int64_t i = 0; total <= room && i < total; i++) {
        const Found *row = &search->part[0].answer.found[i];
        const Segment *segment = &search->common.segments[row->segment];
        rowids[i] = segment->rowids[row->row];
        distances[i] = -row->value;
        if (vectors)
            memcpy(vectors + i * dim, segment->vectors + row->row * dim, (size_t)dim * sizeof(float));
    }
    return total;
}

/* Do a whole search on this thread. */
EXPORTED int64_t aiovec_scan_search(int64_t kind, const Segment *segments, int64_t number,
                                    const uint8_t *const *masks, const float *points,
                                    const int64_t *wanted, int64_t count, int64_t dim,
                                    int64_t metric, double longest, const int8_t *stop,
                                    int64_t room, int64_t *ends, int64_t *rowids,
                                    double *distances, float *vectors) {
    Search *search = aiovec_scan_begin(kind, segments, number, masks, points, wanted, count, dim,
                                       metric, longest, stop, 1, INT32_MAX);
    if (!search) return -1;
    aiovec_scan_part(search);
    int64_t total = aiovec_scan_end(search, room, ends, rowids, distances, vectors);
    aiovec_scan_free(search);
    return total;
}

#include "words.c"
