// A matrix product whose left rows are named by a table: convolution without gathering its windows first
// (Dukhan, The Indirect Convolution Algorithm, 2019).
#include "activations.h"
#include "outcome.h"

#if defined(__AVX512F__) || !defined(__AVX__)  // 32 registers, or 16
#define WIDE 4
#else
#define WIDE 2
#endif
#define HEIGHT 6               // rows of a tile
#define PANEL (WIDE * LANES)   // its columns
#define DEPTH 128              // channels of windows summed before the next tile: their weights stay in the first cache
#define CHUNK 96               // rows whose sums are kept at hand
#define MANY 64                // taps of one pass at most

long panel_width(void) { return PANEL; }

// One pass over a tile: `taps` taps, `depth` channels of each, at left[t][row].
typedef struct {
  const float *left[MANY][HEIGHT], *from[HEIGHT], *add[HEIGHT];  // `from`: the sums so far; `add`: at the end, or NULL
  float *to[HEIGHT];
  const float *weights;
  long taps, depth;
  float low, high;
} pass;

INLINE void tile(int wide, const pass *p) {
  vec acc[HEIGHT][WIDE];
  for (int i = 0; i < HEIGHT; i++)
    for (int j = 0; j < wide; j++) acc[i][j] = LOAD(p->from[i] + j * LANES);
  const float *w = p->weights;
  for (long t = 0; t < p->taps; t++)
    for (long k = 0; k < p->depth; k++, w += PANEL) {
      vec b[WIDE];
      for (int j = 0; j < wide; j++) b[j] = LOAD(w + j * LANES);
      for (int i = 0; i < HEIGHT; i++) {
        float s = p->left[t][i][k];
        for (int j = 0; j < wide; j++) acc[i][j] += s * b[j];
      }
    }
  for (int i = 0; i < HEIGHT; i++)
    for (int j = 0; j < wide; j++) {
      vec v = acc[i][j];
      if (p->add[i]) v += LOAD(p->add[i] + j * LANES);
      STORE(p->to[i] + j * LANES, between(v, p->low, p->high));
    }
}

INLINE void any_tile(int wide, const pass *p) {
  switch (wide) {  // so that each width has registers of its own
    case 1: tile(1, p); break;
    case 2: tile(2, p); break;
#if WIDE == 4
    case 3: tile(3, p); break;
    case 4: tile(4, p); break;
#endif
  }
}

// What one group of channels reads and writes. `first`: `split` rows, `stride` floats apart; `second`: the others.
typedef struct {
  const float *first, *second, *weights, *bias, *added;
  float *out;
  const int32_t *table, *added_at;
  long split, stride, second_stride, out_stride, rows, taps, channels, columns, how;
  float a, b;
} group;

static void multiply(const group *g, long threads) {
  long rows = g->rows, taps = g->taps, channels = g->channels, panels = (g->columns + PANEL - 1) / PANEL;
  long chunk = (rows / threads + HEIGHT) / HEIGHT * HEIGHT;
  if (chunk > CHUNK) chunk = CHUNK;
  long together = channels && channels < DEPTH ? DEPTH / channels : 1;  // taps of one pass
  if (together > MANY) together = MANY;
  // rows of a chunk are taken whole where there are chunks enough: what one thread writes then lies together
#pragma omp parallel for collapse(2) schedule(dynamic, rows >= 16 * chunk * threads ? panels : 1) num_threads(threads)
  for (long m0 = 0; m0 < rows; m0 += chunk)
    for (long panel = 0; panel < panels; panel++) {
      float sums[CHUNK * PANEL] __attribute__((aligned(64)));
      long here = rows - m0 < chunk ? rows - m0 : chunk, n0 = panel * PANEL;
      long n = g->columns - n0 < PANEL ? g->columns - n0 : PANEL;
      int wide = (int)((n + LANES - 1) / LANES), whole = n % LANES == 0;
      float start[PANEL] __attribute__((aligned(64))) = {0};
      if (g->bias) memcpy(start, g->bias + n0, (size_t)n * sizeof(float));
      for (long t = 0; !t || t < taps; t += together)  // at least once: the sum over nothing is 0
        for (long c = 0; !c || c < channels; c += DEPTH) {
          pass p;
          p.taps = taps - t < together ? taps - t : together;
          p.depth = channels - c < DEPTH ? channels - c : DEPTH;
          p.weights = g->weights + ((panel * taps + t) * channels + c) * PANEL;
          int begins = t == 0 && c == 0, ends = t + p.taps == taps && c + p.depth == channels;
          p.low = ends && g->how == CLAMP && whole ? g->a : -INFINITY;
          p.high = ends && g->how == CLAMP && whole ? g->b : INFINITY;
          for (long i = 0; i < here; i += HEIGHT) {
            for (int r = 0; r < HEIGHT; r++) {  // the last tile repeats the last row
              long at = i + r < here ? i + r : here - 1, m = m0 + at;
              for (long u = 0; u < p.taps; u++) {
                long s = g->table ? g->table[m * taps + t + u] : m;
                long behind = s - g->split;
                p.left[u][r] = (behind < 0 ? g->first + s * g->stride : g->second + behind * g->second_stride) + c;
              }
              const float *add = g->added ? g->added + (g->added_at ? g->added_at[m] : m) * g->out_stride + n0 : 0;
              p.from[r] = begins ? start : sums + at * PANEL;
              p.to[r] = ends && whole ? g->out + m * g->out_stride + n0 : sums + at * PANEL;
              p.add[r] = ends && whole ? add : 0;
            }
            any_tile(wide, &p);
          }
        }
      if (whole && g->how == CLAMP) continue;
      for (long i = 0; i < here; i++) {
        long m = m0 + i;
        float *o = g->out + m * g->out_stride + n0;
        if (!whole) {
          memcpy(o, sums + i * PANEL, (size_t)n * sizeof(float));
          const float *add = g->added ? g->added + (g->added_at ? g->added_at[m] : m) * g->out_stride + n0 : 0;
          for (long j = 0; add && j < n; j++) o[j] += add[j];
        }
        activate(o, n, (int)g->how, g->a, g->b);
      }
    }
}

// out[m, :] = activation(bias + sum over t of source[table[m, t], :] @ weights[t] + added[added_at[m], :]), by groups
// source: the rows of `first`, which may lie apart, then those of `second`. weights: (groups, panels, taps, channels,
// PANEL), the last panel zero-padded. table NULL: row m; added_at NULL: m. columns: those of each group.
long product(const float *first, long stride, const float *second, const int32_t *table, const float *weights,
             const float *bias, const float *added, const int32_t *added_at, float *out, long split, long filled,
             long rows, long taps, long groups, long panels, long channels, long width, long held, long columns,
             long how, double a, double b, long threads) {
  long inputs = groups * channels, outputs = groups * columns, each = panels * taps * channels * width;
  if (table && !within(table, rows * taps, 0, split + filled)) return BAD_INDEX;
  if (added_at && !within(added_at, rows, 0, held)) return BAD_INDEX;
  for (long g = 0; g < groups && columns; g++) {
    group one = {first ? first + g * channels : 0, second ? second + g * channels : 0, weights ? weights + g * each : 0,
                 bias ? bias + g * columns : 0, added ? added + g * columns : 0, out ? out + g * columns : 0,
                 table, added_at, split, stride, inputs, outputs, rows, taps, channels, columns, how, (float)a,
                 (float)b};
    multiply(&one, threads);
  }
  return DONE;
}
