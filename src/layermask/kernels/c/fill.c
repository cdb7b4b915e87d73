/* Neighbour padding (the paper's Algorithm 1) in place: hidden cells near the visible part, ring by ring.

   A map of rings says of each cell 0 = to fill from, r = filled in ring r, 255 = neither. A ring's cell takes
   the mean of its neighbours in earlier rings, in a fixed order: the same bits for any batch and any threads.
   Maps are laid out with one spare cell behind every axis, so that no neighbour wraps round. */
#include <stdlib.h>
#include <string.h>

#include "halves.h"
#include "outcome.h"
#include "rings.h"

#define BLOCK 1024 /* cells */
#define FEW 4 /* channels up to which a plane at a time is faster even where channels lie together */

typedef struct { long size[3], step[3], guard, length; } grid;
typedef struct { /* channels of one image, `step` entries apart, and its map */
  const uint8_t *rings;
  const long *size, *stride, *reach;
  double eps;
  int last; /* the outermost ring there is */
  long channels, step;
} task;
typedef struct { /* what all planes of a task share */
  grid grid;
  const long *reach;
  int last;
  uint8_t *rings;       /* on the grid, its guards included; points at its first cell */
  uint8_t *counts;      /* known neighbours of each cell that is filled */
  long from[256], to[256]; /* where on the grid each ring begins and ends */
  uint8_t *near, *filled;  /* rows of cells that are read, that are written */
  int outcome;          /* DONE, or why there is none */
} plan;

static grid make_grid(const long *size) {
  grid g;
  memcpy(g.size, size, sizeof g.size);
  g.step[2] = 1;
  g.step[1] = size[2] + 1;
  g.step[0] = (size[1] + 1) * g.step[1];
  g.length = size[0] * g.step[0];
  g.guard = g.step[1] + 1 + (size[0] > 1 ? g.step[0] : 0);
  return g;
}

static long place(const grid *g, long z, long y) { return g->guard + z * g->step[0] + y * g->step[1]; }

static int along(const plan *p, int axis, int ring) { return p->reach[axis] >= ring && p->grid.size[axis] > 1; }

static void spread(const grid *g, const uint8_t *map, uint8_t *out, uint8_t rest) {
  memset(out, rest, g->length + 2 * g->guard);
  for (long z = 0; z < g->size[0]; z++)
    for (long y = 0; y < g->size[1]; y++, map += g->size[2]) memcpy(out + place(g, z, y), map, g->size[2]);
}

/* How many known cells lie around each: sums of three along the axes that the ring extends on. */
static const uint8_t *around(const plan *p, const uint8_t *known, uint8_t *a, uint8_t *b, int ring) {
  const grid *g = &p->grid;
  long whole = g->length + 2 * g->guard;
  const uint8_t *sums = known;
  for (int axis = 2; axis >= 0; axis--) {
    if (!along(p, axis, ring)) continue;
    uint8_t *restrict out = sums == a ? b : a;
    long step = g->step[axis];
    const uint8_t *restrict in = sums;
    for (long i = step; i < whole - step; i++) out[i] = in[i - step] + in[i] + in[i + step];
    sums = out;
  }
  return sums;
}

/* The map of rings of each image. `is_padding` (padding that is no neighbour) may be NULL, or one for all. */
long fill_rings(const uint8_t *visible, const uint8_t *is_padding, uint8_t *rings, long images, long depth, long height,
                long width, long frames, long reach_d, long reach_h, long reach_w, long threads) {
  const long size[3] = {depth, height, width}, reach[3] = {reach_d, reach_h, reach_w};
  plan p = {.grid = make_grid(size), .reach = reach};
  const grid *g = &p.grid;
  long cells = size[0] * size[1] * size[2], whole = g->length + 2 * g->guard, most = 0;
  int outcome = DONE;
  if (!cells) return DONE;
  for (int axis = 0; axis < 3; axis++) most = reach[axis] > most ? reach[axis] : most;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long n = 0; n < images; n++) {
    const uint8_t *seen = visible + n * cells, *padding = is_padding ? is_padding + (frames == 1 ? 0 : n * cells) : NULL;
    uint8_t *out = rings + n * cells, *known = calloc(5, (size_t)whole);
    if (!known) {
#pragma omp atomic write
      outcome = OUT_OF_MEMORY;
      continue;
    }
    uint8_t *open = known + whole, *ring = open + whole, *a = ring + whole, *b = a + whole;
    for (long i = 0; i < cells; i++) out[i] = seen[i] && !(padding && padding[i]);
    spread(g, out, known, 0);
    for (long i = 0; i < cells; i++) out[i] = !seen[i];
    spread(g, out, open, 0);
    for (long i = 0; i < whole; i++) ring[i] = known[i] ? 0 : NEVER;
    for (int r = 1; r <= most; r++) {
      const uint8_t *restrict sums = around(&p, known, a, b, r);
      int found = 0;
      for (long i = 0; i < whole; i++) {
        uint8_t now = open[i] & (sums[i] > 0);
        ring[i] = now ? r : ring[i];
        known[i] |= now;
        open[i] ^= now;
        found |= now;
      }
      if (!found) break;
    }
    for (long z = 0; z < size[0]; z++)
      for (long y = 0; y < size[1]; y++, out += size[2]) memcpy(out, ring + place(g, z, y), size[2]);
    free(known);
  }
  return outcome;
}

static void mark_rows(plan *p) {
  const grid *g = &p->grid;
  long rows = g->size[0] * g->size[1];
  p->near = calloc(2, (size_t)rows);
  if (!p->near) {
    p->outcome = OUT_OF_MEMORY;
    return;
  }
  p->filled = p->near + rows;
  for (int r = 1; r <= p->last; r++) p->from[r] = g->guard + g->length, p->to[r] = 0;
  for (long z = 0, n = 0; z < g->size[0]; z++)
    for (long y = 0; y < g->size[1]; y++, n++)
      for (long x = 0, i = place(g, z, y); x < g->size[2]; x++, i++) {
        uint8_t r = p->rings[i];
        if (!r || r == NEVER) continue;
        if (i < p->from[r]) p->from[r] = i;
        if (i >= p->to[r]) p->to[r] = i + 1;
        p->filled[n] = 1;
      }
  for (long z = 0; z < g->size[0]; z++)
    for (long y = 0; y < g->size[1]; y++)
      for (long dz = -1; dz <= 1; dz++)
        for (long dy = -1; dy <= 1; dy++) {
          long v = z + dz, u = y + dy;
          if (v >= 0 && v < g->size[0] && u >= 0 && u < g->size[1] && p->filled[v * g->size[1] + u])
            p->near[z * g->size[1] + y] = 1;
        }
}

static void count_known(plan *p) {
  long whole = p->grid.length + 2 * p->grid.guard;
  uint8_t *known = calloc(3, (size_t)whole), *a, *b;
  p->counts = calloc(1, (size_t)whole);
  if (!known || !p->counts) p->outcome = OUT_OF_MEMORY;
  if (known) a = known + whole, b = a + whole;
  for (int r = 1; r <= p->last && !p->outcome; r++) {
    for (long i = 0; i < whole; i++) known[i] = p->rings[i] < r;
    const uint8_t *restrict sums = around(p, known, a, b, r);
    int lonely = 0;
    for (long i = 0; i < whole; i++) {
      p->counts[i] = p->rings[i] == r ? sums[i] : p->counts[i];
      lonely |= p->rings[i] == r && !sums[i];
    }
    if (lonely) p->outcome = BAD_RINGS;
  }
  free(known);
}

static plan make_plan(const task *t) {
  plan p = {.grid = make_grid(t->size), .reach = t->reach, .last = t->last};
  p.rings = malloc((size_t)(p.grid.length + 2 * p.grid.guard));
  p.outcome = p.rings ? DONE : OUT_OF_MEMORY;
  if (!p.outcome) spread(&p.grid, t->rings, p.rings, NEVER);
  if (!p.outcome) mark_rows(&p);
  if (!p.outcome) count_known(&p);
  return p;
}

static void drop_plan(plan *p) {
  free(p->rings);
  free(p->counts);
  free(p->near);
}

#define SAME(x) (x)
#define NAME(name) name##_float
#define TYPE float
#define REAL float
#define READ SAME
#define WRITE SAME
#include "fill.h"

#define NAME(name) name##_double
#define TYPE double
#define REAL double
#define READ SAME
#define WRITE SAME
#include "fill.h"

#define NAME(name) name##_bfloat
#define TYPE uint16_t
#define REAL float
#define READ from_bfloat
#define WRITE to_bfloat
#include "fill.h"

#define NAME(name) name##_half
#define TYPE uint16_t
#define REAL float
#define READ from_half
#define WRITE to_half
#include "fill.h"

/* Some channels of one image. */
static int fill_part(const task *t, void *value, long kind, int by_rows) {
  switch (kind) {
    case 0: return by_rows ? by_rows_float(t, value) : by_planes_float(t, value);
    case 1: return by_rows ? by_rows_double(t, value) : by_planes_double(t, value);
    case 2: return by_rows ? by_rows_bfloat(t, value) : by_planes_bfloat(t, value);
    default: return by_rows ? by_rows_half(t, value) : by_planes_half(t, value);
  }
}

/* Fill `value` (images, channels, depth, height, width) of the given strides (in entries) in place. kind: 0 float,
   1 double, 2 bfloat16, 3 half. `rings`: one map per image, or one for all. */
long fill_values(void *value, long kind, long step_n, long step_c, long step_d, long step_h, long step_w,
                 const uint8_t *rings, long images, long channels, long depth, long height, long width, long maps,
                 long reach_d, long reach_h, long reach_w, double eps, long threads) {
  static const long widths[] = {4, 8, 2, 2};
  const long size[3] = {depth, height, width}, stride[3] = {step_d, step_h, step_w};
  const long reach[3] = {reach_d, reach_h, reach_w};
  long cells = depth * height * width;
  if (!images || !channels || !cells) return DONE;
  long parts = images >= 2 * threads ? 1 : (2 * threads + images - 1) / images;
  long block = ((channels + parts - 1) / parts + 63) / 64 * 64;
  int outcome = DONE;
  parts = (channels + block - 1) / block;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long part = 0; part < images * parts; part++) {
    long n = part / parts, first = part % parts * block;
    long number = channels - first < block ? channels - first : block;
    task t = {rings + (maps == 1 ? 0 : n * cells), size, stride, reach, eps, 0, number, step_c};
    for (long i = 0; i < cells; i++) t.last = t.rings[i] != NEVER && t.rings[i] > t.last ? t.rings[i] : t.last;
    char *start = (char *)value + (n * step_n + first * step_c) * widths[kind];
    int found = t.last ? fill_part(&t, start, kind, step_c == 1 && channels > FEW) : DONE;
    if (found) {
#pragma omp atomic write
      outcome = found;
    }
  }
  return outcome;
}
