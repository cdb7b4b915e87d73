/* One stored type's fill: included by fill.c once per TYPE, with REAL (what sums are held in), READ and WRITE. */

static void NAME(sum3)(const REAL *restrict x, REAL *restrict out, long step, long from, long to) {
  for (long i = from; i < to; i++) out[i] = x[i - step] + x[i] + x[i + step];
}

static void NAME(take)(REAL *restrict s, const REAL *restrict sums, const REAL *restrict share,
                       const REAL *restrict level, REAL ring, long from, long to) {
  for (long i = from; i < to; i++) s[i] = level[i] == ring ? sums[i] * share[i] : s[i];
}

/* Known cells of one channel into the grid, zero elsewhere: what is hidden is chosen away, never multiplied. */
static void NAME(load)(const plan *p, const TYPE *value, const long *stride, const REAL *levels, REAL *s) {
  const grid *g = &p->grid;
  for (long z = 0; z < g->size[0]; z++)
    for (long y = 0; y < g->size[1]; y++) {
      const TYPE *restrict row = value + z * stride[0] + y * stride[1];
      long at = place(g, z, y);
      const REAL *restrict level = levels + at;
      REAL *restrict out = s + at;
      if (!p->near[z * g->size[1] + y]) continue;
      if (stride[2] == 1)
        for (long x = 0; x < g->size[2]; x++) { REAL v = READ(row[x]); out[x] = level[x] == 0 ? v : 0; }
      else
        for (long x = 0; x < g->size[2]; x++) out[x] = level[x] == 0 ? READ(row[x * stride[2]]) : 0;
    }
}

static void NAME(store)(const plan *p, TYPE *value, const long *stride, const REAL *levels, const REAL *s) {
  const grid *g = &p->grid;
  for (long z = 0; z < g->size[0]; z++)
    for (long y = 0; y < g->size[1]; y++) {
      TYPE *restrict row = value + z * stride[0] + y * stride[1];
      long at = place(g, z, y);
      const REAL *restrict level = levels + at;
      const REAL *restrict in = s + at;
      if (!p->filled[z * g->size[1] + y]) continue;
      if (stride[2] == 1)
        for (long x = 0; x < g->size[2]; x++) {
          TYPE v = WRITE(in[x]);
          row[x] = level[x] > 0 && level[x] < NEVER ? v : row[x];
        }
      else
        for (long x = 0; x < g->size[2]; x++)
          if (level[x] > 0 && level[x] < NEVER) row[x * stride[2]] = WRITE(in[x]);
    }
}

/* One ring of one channel: box sums axis by axis in vector steps, a block at a time so that all stays in cache.
   A sum along x runs ahead of the one along y, and so on, so that none reads what this ring has filled. */
static void NAME(ring)(const plan *p, int ring, REAL *s, REAL *a, REAL *b, const REAL *share, const REAL *levels) {
  const long *step = p->grid.step, from = p->from[ring], to = p->to[ring];
  long ahead[3] = {0, along(p, 0, ring) ? step[0] : 0, 0}, done[3];
  ahead[2] = ahead[1] + (along(p, 1, ring) ? step[1] : 0);
  for (int axis = 0; axis < 3; axis++) done[axis] = from - ahead[axis];
  for (long at = from; at < to; at += BLOCK) {
    long end = at + BLOCK < to ? at + BLOCK : to;
    const REAL *sums = s;
    for (int axis = 2; axis >= 0; axis--) {
      if (!along(p, axis, ring)) continue;
      REAL *out = sums == a ? b : a;
      NAME(sum3)(sums, out, step[axis], done[axis], end + ahead[axis]);
      done[axis] = end + ahead[axis];
      sums = out;
    }
    NAME(take)(s, sums, share, levels, ring, at, end);
  }
}

/* Channels one by one, each copied into the grid. */
static int NAME(by_planes)(const task *t, TYPE *value) {
  plan made = make_plan(t);
  const plan *p = &made;
  long whole = p->grid.length + 2 * p->grid.guard;
  REAL *s = p->outcome ? NULL : calloc((size_t)(5 * whole), sizeof(REAL));
  if (!s) {
    drop_plan(&made);
    return p->outcome ? p->outcome : OUT_OF_MEMORY;
  }
  REAL *a = s + whole, *b = a + whole, *share = b + whole, *levels = share + whole;
  for (long i = 0; i < whole; i++) share[i] = 1 / ((REAL)p->counts[i] + (REAL)t->eps), levels[i] = p->rings[i];
  for (long c = 0; c < t->channels; c++, value += t->step) {
    NAME(load)(p, value, t->stride, levels, s);
    for (int ring = 1; ring <= p->last; ring++) NAME(ring)(p, ring, s, a, b, share, levels);
    NAME(store)(p, value, t->stride, levels, s);
  }
  free(s);
  drop_plan(&made);
  return DONE;
}

#include "mean.h"

/* Cells one by one, each a row of channels: for values whose channels lie next to each other. */
static int NAME(by_rows)(const task *t, TYPE *value) {
  const uint8_t *end = t->rings + t->size[0] * t->size[1] * t->size[2];
  long step[AROUND];
  const TYPE *from[AROUND];
  for (int ring = 1; ring <= t->last; ring++)
    for (const uint8_t *at = t->rings; (at = memchr(at, ring, (size_t)(end - at))); at++) {
      long cell = at - t->rings, x = cell % t->size[2], y = cell / t->size[2] % t->size[1];
      TYPE *out = value + cell / (t->size[1] * t->size[2]) * t->stride[0] + y * t->stride[1] + x * t->stride[2];
      long count = earlier(t->rings, t->size, t->reach, cell, t->stride, step);
      if (!count) return BAD_RINGS;
      for (long k = 0; k < count; k++) from[k] = out + step[k];
      NAME(mean_of)(from, count, out, t->channels, t->eps);
    }
  return DONE;
}

#undef NAME
#undef TYPE
#undef REAL
#undef READ
#undef WRITE
