// Which rows a window op over visible cells reads: tap by tap what is read, ring by ring what is to be filled.
#include <string.h>

#include "outcome.h"
#include "rings.h"

// read[m * taps + t]: the cell that tap t of output cell cells[m] reads, or -1 outside the image
long window_cells(const int32_t *cells, int32_t *read, long count, long each, long h, long w, long out_h, long out_w,
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

// The hidden cells that are read, and those that these are filled from. read: (rows, taps) cells, the rows of an
// image from begins[image] on. needed: (n, h * w), the first counts[image, :].sum() of each image are its cells,
// counts: (n, 256) how many by ring. listed: (n, h * w), to work in.
long need(const uint8_t *rings, const int32_t *read, const int64_t *begins, uint8_t *listed, int32_t *needed,
          int32_t *counts, long n, long h, long w, long rows, long taps, long reach_h, long reach_w, long threads) {
  const long size[3] = {1, h, w}, reach[3] = {0, reach_h, reach_w}, stride[3] = {0, w, 1};
  long cells = h * w;
  int outcome = in_order(begins, n, rows) ? DONE : BAD_INDEX;
  if (outcome || !n) return outcome;
  memset(counts, 0, (size_t)n * 256 * sizeof *counts);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long image = 0; image < n; image++) {
    const uint8_t *ring = rings + image * cells;
    uint8_t *in = listed + image * cells;
    int32_t *list = needed + image * cells, *count = counts + image * 256;
    long number = 0, found[AROUND];
    if (cells) memset(in, 0, (size_t)cells);
    for (long i = begins[image] * taps; i < begins[image + 1] * taps; i++) {
      long cell = read[i] - image * cells;
      if (read[i] < 0) continue;
      if (cell < 0 || cell >= cells) {
#pragma omp atomic write
        outcome = BAD_INDEX;
        break;
      }
      if (!ring[cell] || in[cell] || ring[cell] == NEVER) continue;
      in[cell] = 1, list[number++] = (int32_t)cell;
    }
    for (long i = 0; i < number; i++) {  // the list grows while it is read
      long cell = list[i], near = ring[cell] > 1 ? earlier(ring, size, reach, cell, stride, found) : 0;
      count[ring[cell]]++;
      for (long k = 0; k < near; k++) {
        long other = cell + found[k];
        if (ring[other] && !in[other]) in[other] = 1, list[number++] = (int32_t)other;
      }
    }
  }
  return outcome;
}

// Gives rows to one image's needed cells. Tables that do not belong together are refused.
static int number_image(const uint8_t *ring, const long *size, const long *reach, const int32_t *list, long count,
                        int32_t *next, long first, long rows, int32_t *row, int32_t *sources) {
  const long stride[3] = {0, size[2], 1};
  long found[AROUND];
  if (count > size[1] * size[2] || !within(list, count, 0, size[1] * size[2])) return BAD_INDEX;
  for (long i = 0; i < count; i++) {
    long own = next[ring[list[i]]]++;
    if (own < first || own >= first + rows) return BAD_INDEX;
    row[list[i]] = (int32_t)own;
  }
  for (long i = 0; i < count; i++) {
    int32_t *out = sources + (row[list[i]] - first) * 8;
    long near = earlier(ring, size, reach, list[i], stride, found);
    for (long k = 0; k < 8; k++) out[k] = k < near ? row[list[i] + found[k]] : -1;
  }
  return DONE;
}

// number[cell]: its row; those of visible cells are given, needed ones follow from `visible_rows` on, by ring and
// image (begins: (n, 256), where those of an image and ring begin). sources: (filled rows, 8), the rows of
// which each is the mean, then -1. read: cells become rows in place, the one behind all where there is none.
long number_rows(const uint8_t *rings, const int32_t *needed, const int32_t *counts, const int32_t *begins,
                 int32_t *number, int32_t *sources, int32_t *read, long n, long h, long w, long filled, long rows,
                 long taps, long visible_rows, long reach_h, long reach_w, long threads) {
  const long size[3] = {1, h, w}, reach[3] = {0, reach_h, reach_w};
  long cells = h * w, zero = visible_rows + filled;
  int outcome = DONE;
  if (!within(read, rows * taps, INT32_MIN, n * cells) || !within(counts, n * 256, 0, cells + 1)) return BAD_INDEX;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long image = 0; image < n; image++) {
    int32_t next[256];
    long count = 0, at = image * cells;
    memcpy(next, begins + image * 256, sizeof next);
    for (long i = 0; i < 256; i++) count += counts[image * 256 + i];
    if (!count) continue;
    int found = number_image(rings + at, size, reach, needed + at, count, next, visible_rows, filled, number + at,
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
