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
#define DEPTH 128              // channels summed before the next tile: its weights stay in the first cache
#define CHUNK 96               // rows whose sums are kept at hand

long panel_width(void) { return PANEL; }

INLINE void tile(int wide, const float *const *a, long depth, const float *w, float *sums) {
  vec acc[HEIGHT][WIDE];
  for (int i = 0; i < HEIGHT; i++)
    for (int j = 0; j < wide; j++) acc[i][j] = LOAD(sums + i * PANEL + j * LANES);
  for (long k = 0; k < depth; k++) {
    vec b[WIDE];
    for (int j = 0; j < wide; j++) b[j] = LOAD(w + k * PANEL + j * LANES);
    for (int i = 0; i < HEIGHT; i++) {
      float s = a[i][k];
      for (int j = 0; j < wide; j++) acc[i][j] += s * b[j];
    }
  }
  for (int i = 0; i < HEIGHT; i++)
    for (int j = 0; j < wide; j++) STORE(sums + i * PANEL + j * LANES, acc[i][j]);
}

INLINE void any_tile(int wide, const float *const *a, long depth, const float *w, float *sums) {
  switch (wide) {  // so that each width has registers of its own
    case 1: tile(1, a, depth, w, sums); break;
    case 2: tile(2, a, depth, w, sums); break;
#if WIDE == 4
    case 3: tile(3, a, depth, w, sums); break;
    case 4: tile(4, a, depth, w, sums); break;
#endif
  }
}

INLINE void finish(float *sums, const float *add, float *out, long n, int how, float a, float b) {
  if (add)
    for (long j = 0; j < n; j++) sums[j] += add[j];
  activate(sums, n, how, a, b);
  memcpy(out, sums, n * sizeof(float));
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
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
  for (long m0 = 0; m0 < rows; m0 += chunk)
    for (long panel = 0; panel < panels; panel++) {
      float sums[CHUNK * PANEL] __attribute__((aligned(64)));
      long here = rows - m0 < chunk ? rows - m0 : chunk, n0 = panel * PANEL;
      long n = columns - n0 < PANEL ? columns - n0 : PANEL;
      int wide = (int)((n + LANES - 1) / LANES);
      float start[PANEL] = {0};
      if (bias) memcpy(start, bias + n0, n * sizeof(float));
      for (long i = 0; i < chunk; i++) memcpy(sums + i * PANEL, start, sizeof start);
      const float *w = weights + panel * taps * channels * PANEL;
      for (long t = 0; t < taps; t++)
        for (long c = 0; c < channels; c += DEPTH) {
          long depth = channels - c < DEPTH ? channels - c : DEPTH;
          for (long i = 0; i < here; i += HEIGHT) {
            const float *left[HEIGHT];
            for (int r = 0; r < HEIGHT; r++) {  // the last tile repeats the last row
              long m = m0 + (i + r < here ? i + r : here - 1), s = table ? table[m * taps + t] : m;
              left[r] = (s < split ? first + s * stride : second + (s - split) * second_stride) + c;
            }
            any_tile(wide, left, depth, w + (t * channels + c) * PANEL, sums + i * PANEL);
          }
        }
      for (long i = 0; i < here; i++) {
        long m = m0 + i;
        const float *add = added ? added + (added_at ? added_at[m] : m) * added_stride + n0 : 0;
        finish(sums + i * PANEL, add, out + m * out_stride + n0, n, (int)how, a, b);
      }
    }
}
