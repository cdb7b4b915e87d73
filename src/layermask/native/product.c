// A matrix product whose left rows are named by a table: convolution without gathering its windows first
// (Dukhan, The Indirect Convolution Algorithm, 2019).
#include "activations.h"

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

// out[m, :] = activation(bias + sum over t of source[table[m, t], :] @ weights[t] + added[added_at[m], :])
// source: `split` rows at `first`, `stride` floats apart, the others at `second`, `second_stride` apart.
// weights: (panels, taps, channels, PANEL), the last panel zero-padded. table NULL: row m; added_at NULL: m.
void product(const float *first, long stride, long split, const float *second, long second_stride, const int32_t *table,
             long rows,
             long taps, long channels, long columns, const float *weights, const float *bias,
             const float *added, const int32_t *added_at, long added_stride, float *out, long out_stride,
             long how, float a, float b, long threads) {
  long panels = (columns + PANEL - 1) / PANEL;
  long chunk = (rows / threads + HEIGHT) / HEIGHT * HEIGHT;
  if (chunk > CHUNK) chunk = CHUNK;
  long together = channels < DEPTH ? DEPTH / channels : 1;  // taps of one pass
  if (together > MANY) together = MANY;
  // rows of a chunk are taken whole where there are chunks enough: what one thread writes then lies together
#pragma omp parallel for collapse(2) schedule(dynamic, rows >= 16 * chunk * threads ? panels : 1) num_threads(threads)
  for (long m0 = 0; m0 < rows; m0 += chunk)
    for (long panel = 0; panel < panels; panel++) {
      float sums[CHUNK * PANEL] __attribute__((aligned(64)));
      long here = rows - m0 < chunk ? rows - m0 : chunk, n0 = panel * PANEL;
      long n = columns - n0 < PANEL ? columns - n0 : PANEL;
      int wide = (int)((n + LANES - 1) / LANES), whole = n % LANES == 0;
      float start[PANEL] __attribute__((aligned(64))) = {0};
      if (bias) memcpy(start, bias + n0, n * sizeof(float));
      for (long t = 0; t < taps; t += together)
        for (long c = 0; c < channels; c += DEPTH) {
          pass p;
          p.taps = taps - t < together ? taps - t : together;
          p.depth = channels - c < DEPTH ? channels - c : DEPTH;
          p.weights = weights + ((panel * taps + t) * channels + c) * PANEL;
          int begins = t == 0 && c == 0, ends = t + p.taps == taps && c + p.depth == channels;
          p.low = ends && how == CLAMP && whole ? a : -INFINITY;
          p.high = ends && how == CLAMP && whole ? b : INFINITY;
          for (long i = 0; i < here; i += HEIGHT) {
            for (int r = 0; r < HEIGHT; r++) {  // the last tile repeats the last row
              long at = i + r < here ? i + r : here - 1, m = m0 + at;
              for (long u = 0; u < p.taps; u++) {
                long s = table ? table[m * taps + t + u] : m;
                p.left[u][r] = (s < split ? first + s * stride : second + (s - split) * second_stride) + c;
              }
              p.from[r] = begins ? start : sums + at * PANEL;
              p.to[r] = ends && whole ? out + m * out_stride + n0 : sums + at * PANEL;
              p.add[r] = ends && whole && added ? added + (added_at ? added_at[m] : m) * added_stride + n0 : 0;
            }
            any_tile(wide, &p);
          }
        }
      if (whole && how == CLAMP) continue;
      for (long i = 0; i < here; i++) {
        long m = m0 + i;
        float *o = out + m * out_stride + n0;
        if (!whole) {
          memcpy(o, sums + i * PANEL, n * sizeof(float));
          const float *add = added ? added + (added_at ? added_at[m] : m) * added_stride + n0 : 0;
          for (long j = 0; add && j < n; j++) o[j] += add[j];
        }
        activate(o, n, (int)how, a, b);
      }
    }
}
