// Which rows a window op over visible cells reads: ring by ring what is to be filled, tap by tap what is read.
#include <stdint.h>

enum { FAR = 255 };

typedef struct {
  long n, h, w;
} Grid;

// level[cell]: 0 where visible, r where the r-th ring of the fill puts it, FAR beyond `reach` (at most 254)
void levels(const uint8_t *visible, long n, long h, long w, long reach_h, long reach_w, uint8_t *level,
            long threads) {
  long rings = reach_h > reach_w ? reach_h : reach_w;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long image = 0; image < n; image++) {
    const uint8_t *v = visible + image * h * w;
    uint8_t *l = level + image * h * w;
    for (long i = 0; i < h * w; i++) l[i] = v[i] ? 0 : FAR;
    for (long r = 0; r < rings; r++) {
      long dy = reach_h > r, dx = reach_w > r;
      for (long y = 0; y < h; y++)
        for (long x = 0; x < w; x++) {
          if (l[y * w + x] != FAR) continue;
          int near = 0;
          for (long i = y - dy < 0 ? 0 : y - dy; i <= y + dy && i < h; i++)
            for (long j = x - dx < 0 ? 0 : x - dx; j <= x + dx && j < w; j++) near |= l[i * w + j] <= r;
          if (near) l[y * w + x] = (uint8_t)(r + 1);
        }
    }
  }
}

// read[m * taps + t]: the cell that tap t of output cell cells[m] reads, or -1 outside the image
void taps(const int32_t *cells, long count, long h, long w, long out_h, long out_w, long kernel_h, long kernel_w,
          long stride_h, long stride_w, long before_h, long before_w, long dilation_h, long dilation_w,
          int32_t *read, long threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long m = 0; m < count; m++) {
    long cell = cells[m], image = cell / (out_h * out_w), y = cell / out_w % out_h, x = cell % out_w;
    int32_t *o = read + m * kernel_h * kernel_w;
    for (long i = 0; i < kernel_h; i++)
      for (long j = 0; j < kernel_w; j++) {
        long a = y * stride_h - before_h + i * dilation_h, b = x * stride_w - before_w + j * dilation_w;
        int inside = a >= 0 && a < h && b >= 0 && b < w;
        *o++ = inside ? (int32_t)((image * h + a) * w + b) : -1;
      }
  }
}

// The neighbours that a cell of some level is filled from: those of lower level in its ring's 3-wide box.
static long around(const uint8_t *level, Grid g, long reach_h, long reach_w, long cell, int32_t *found) {
  long l = level[cell], y = cell / g.w % g.h, x = cell % g.w, count = 0;
  long dy = reach_h >= l, dx = reach_w >= l;
  for (long i = -dy; i <= dy; i++)
    for (long j = -dx; j <= dx; j++)
      if (y + i >= 0 && y + i < g.h && x + j >= 0 && x + j < g.w && level[cell + i * g.w + j] < l)
        found[count++] = (int32_t)(cell + i * g.w + j);
  return count;
}

// Marks in `needed` the hidden cells that are read, and those that these are filled from; per_level[l] counts
// them by level (256 entries).
void need(const int32_t *read, long count, const uint8_t *level, long n, long h, long w, long reach_h,
          long reach_w, uint8_t *needed, int32_t *per_level, long threads) {
  (void)threads;
  Grid g = {n, h, w};
  int32_t found[9];
  long top = 0;
  for (long i = 0; i < count; i++) {
    long cell = read[i];
    if (cell < 0 || level[cell] == 0 || level[cell] == FAR) continue;
    needed[cell] = 1;
    if (level[cell] > top) top = level[cell];
  }
  for (long l = top; l >= 1; l--)
    for (long cell = 0; cell < n * h * w; cell++) {
      if (!needed[cell] || level[cell] != l) continue;
      long near = around(level, g, reach_h, reach_w, cell, found);
      for (long i = 0; i < near; i++)
        if (level[found[i]]) needed[found[i]] = 1;
      per_level[l]++;
    }
}

// number[cell]: its row; those of visible cells are given, needed ones follow, by level. offsets and sources:
// the rows that each of these is the mean of. read: cells become rows in place; `zero` where there is none.
void number_rows(const uint8_t *level, const uint8_t *needed, long n, long h, long w, long reach_h, long reach_w,
                 long visible, long levels_used, int32_t *number, int32_t *offsets, int32_t *sources,
                 int32_t *read, long count, long threads) {
  Grid g = {n, h, w};
  int32_t found[9];
  long next = visible, filled = 0;
  for (long l = 1; l <= levels_used; l++)
    for (long cell = 0; cell < n * h * w; cell++)
      if (needed[cell] && level[cell] == l) number[cell] = (int32_t)next++;
  long ring = 0;
  for (long l = 1; l <= levels_used; l++)
    for (long cell = 0; cell < n * h * w; cell++) {
      if (!needed[cell] || level[cell] != l) continue;
      long near = around(level, g, reach_h, reach_w, cell, found);
      offsets[ring++] = (int32_t)filled;
      for (long i = 0; i < near; i++) sources[filled++] = number[found[i]];
    }
  offsets[ring] = (int32_t)filled;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long i = 0; i < count; i++) {
    long cell = read[i];
    read[i] = cell < 0 || number[cell] < 0 ? (int32_t)next : number[cell];
  }
}
