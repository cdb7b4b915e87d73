// Which rows a window op over visible cells reads: tap by tap what is read, ring by ring what is to be filled.
#include <string.h>

#include "outcome.h"

// read[m * taps + t]: the cell that tap t of output cell cells[m] reads, or -1 outside the image
long taps(const int32_t *cells, int32_t *read, long count, long each, long h, long w, long out_h, long out_w,
          long kernel_h, long kernel_w, long stride_h, long stride_w, long before_h, long before_w, long dilation_h,
          long dilation_w, long threads) {
  long last = -1;
  for (long m = 0; m < count; m++) {
    if (cells[m] < 0) return BAD_INDEX;
    last = cells[m] > last ? cells[m] : last;
  }
  if (last >= 0 && h > 0 && w > 0 && last / (out_h * out_w) >= INT32_MAX / (h * w)) return TOO_LARGE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long m = 0; m < count; m++) {
    long cell = cells[m], image = cell / (out_h * out_w), y = cell / out_w % out_h, x = cell % out_w;
    int32_t *o = read + m * each;
    for (long i = 0; i < kernel_h; i++)
      for (long j = 0; j < kernel_w; j++) {
        long a = y * stride_h - before_h + i * dilation_h, b = x * stride_w - before_w + j * dilation_w;
        int inside = a >= 0 && a < h && b >= 0 && b < w;
        *o++ = inside ? (int32_t)((image * h + a) * w + b) : -1;
      }
  }
  return DONE;
}

enum { UNKNOWN = 255, FAR = 254, AROUND = 8 };

typedef struct {
  long h, w, reach_h, reach_w;
} Grid;

static long most(long a, long b) { return a > b ? a : b; }
static long least(long a, long b) { return a < b ? a : b; }

// The ring in which the fill reaches a cell of one image: 0 where visible, FAR beyond the reach. Rings are boxes
// that grow by one cell, along an axis as far as it reaches: a cell's is the first box about it that shows any.
static uint8_t level_of(uint8_t *level, const uint8_t *visible, Grid g, long cell) {
  if (level[cell] != UNKNOWN) return level[cell];
  long y = cell / g.w, x = cell % g.w;
  for (long r = 0; r <= most(g.reach_h, g.reach_w); r++) {
    long dy = least(r, g.reach_h), dx = least(r, g.reach_w);
    for (long i = most(y - dy, 0); i <= least(y + dy, g.h - 1); i++)
      for (long j = most(x - dx, 0); j <= least(x + dx, g.w - 1); j++)
        if (visible[i * g.w + j]) return level[cell] = (uint8_t)r;
  }
  return level[cell] = FAR;
}

// The neighbours that a hidden cell is filled from: those of earlier rings, in the 3-wide box of its own.
static long around(uint8_t *level, const uint8_t *visible, Grid g, long cell, int32_t *found) {
  long l = level[cell], y = cell / g.w, x = cell % g.w, count = 0, dy = g.reach_h >= l, dx = g.reach_w >= l;
  for (long i = most(y - dy, 0); i <= least(y + dy, g.h - 1); i++)
    for (long j = most(x - dx, 0); j <= least(x + dx, g.w - 1); j++)
      if (level_of(level, visible, g, i * g.w + j) < l) found[count++] = (int32_t)(i * g.w + j);
  return count;
}

// The hidden cells that are read, and those that these are filled from. read: (rows, taps) cells, the rows of an
// image from begins[image] on. needed: (n, h * w), the first counts[image, :].sum() of each image are its cells,
// counts: (n, 256) how many by level. level, listed: (n, h * w), to work in.
long need(const uint8_t *visible, const int32_t *read, const int64_t *begins, uint8_t *level, uint8_t *listed,
          int32_t *needed, int32_t *counts, long n, long h, long w, long rows, long taps, long reach_h, long reach_w,
          long threads) {
  Grid g = {h, w, reach_h, reach_w};
  long cells = h * w;
  int outcome = in_order(begins, n, rows) ? DONE : BAD_INDEX;
  if (outcome || !n) return outcome;
  memset(counts, 0, (size_t)n * 256 * sizeof *counts);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long image = 0; image < n; image++) {
    const uint8_t *v = visible + image * cells;
    uint8_t *l = level + image * cells, *in = listed + image * cells;
    int32_t *list = needed + image * cells, *count = counts + image * 256, found[AROUND + 1];
    long size = 0;
    for (long i = 0; i < cells; i++) l[i] = UNKNOWN, in[i] = 0;
    for (long i = begins[image] * taps; i < begins[image + 1] * taps; i++) {
      long cell = read[i] - image * cells;
      if (read[i] < 0) continue;
      if (cell < 0 || cell >= cells) {
#pragma omp atomic write
        outcome = BAD_INDEX;
        break;
      }
      if (v[cell] || in[cell] || level_of(l, v, g, cell) == FAR) continue;
      in[cell] = 1, list[size++] = (int32_t)cell;
    }
    for (long i = 0; i < size; i++) {  // the list grows while it is read
      count[l[list[i]]]++;
      long near = l[list[i]] > 1 ? around(l, v, g, list[i], found) : 0;
      for (long k = 0; k < near; k++)
        if (l[found[k]] && !in[found[k]]) in[found[k]] = 1, list[size++] = found[k];
    }
  }
  return outcome;
}

// Gives rows to one image's needed cells. Tables that do not belong together are refused.
static int number_image(const uint8_t *visible, uint8_t *level, const int32_t *list, long size, int32_t *next, Grid g,
                        long first, long rows, int32_t *row, int32_t *sources) {
  int32_t found[AROUND + 1];
  if (size > g.h * g.w || !within(list, size, 0, g.h * g.w)) return BAD_INDEX;
  for (long i = 0; i < size; i++) {
    long own = next[level[list[i]]]++;
    if (own < first || own >= first + rows) return BAD_INDEX;
    row[list[i]] = (int32_t)own;
  }
  for (long i = 0; i < size; i++) {
    int32_t *out = sources + (row[list[i]] - first) * AROUND;
    long near = around(level, visible, g, list[i], found);
    for (long k = 0; k < AROUND; k++) out[k] = k < near ? row[found[k]] : -1;
  }
  return DONE;
}

// number[cell]: its row; those of visible cells are given, needed ones follow from `visible_rows` on, by level and
// image (begins: (n, 256), where those of an image and level begin). sources: (filled rows, 8), the rows of
// which each is the mean, then -1. read: cells become rows in place, the one behind all where there is none.
long number_rows(const uint8_t *visible, uint8_t *level, const int32_t *needed, const int32_t *counts,
                 const int32_t *begins, int32_t *number, int32_t *sources, int32_t *read, long n, long h, long w,
                 long filled, long rows, long taps, long visible_rows, long reach_h, long reach_w, long threads) {
  Grid g = {h, w, reach_h, reach_w};
  long cells = h * w, zero = visible_rows + filled;
  int outcome = DONE;
  if (!within(read, rows * taps, INT32_MIN, n * cells) || !within(counts, n * 256, 0, cells + 1)) return BAD_INDEX;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long image = 0; image < n; image++) {
    int32_t next[256];
    long size = 0, at = image * cells;
    memcpy(next, begins + image * 256, sizeof next);
    for (long i = 0; i < 256; i++) size += counts[image * 256 + i];
    if (!size) continue;
    int found = number_image(visible + at, level + at, needed + at, size, next, g, visible_rows, filled, number + at,
                             sources);
    if (found) {
#pragma omp atomic write
      outcome = found;
    }
  }
  if (outcome) return outcome;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long i = 0; i < rows * taps; i++) {
    long cell = read[i];
    read[i] = cell < 0 || number[cell] < 0 ? (int32_t)zero : number[cell];
  }
  return DONE;
}
