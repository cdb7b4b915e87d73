// What else is done to rows of channels, one row per visible cell: sums and maxima over windows, scaling.
// Tables are checked against the sizes of what they name.
#include "activations.h"
#include "outcome.h"

#define BLOCK (4 * LANES)

#define NAME(name) name##_float
#define TYPE float
#define REAL float
#define READ
#define WRITE
#include "mean.h"

INLINE const float *row(const float *first, long split, const float *second, long channels, long s) {
  return s < split ? first + s * channels : second + (s - split) * channels;
}

// out[m, c] = activation(bias[c] + sum over t of source[table[m, t], c] * weights[t, c]): depthwise convolution
long depthwise(const float *first, const float *second, const int32_t *table, const float *weights, const float *bias,
               float *out, long split, long channels, long filled, long rows, long taps, long how, double a, double b,
               long threads) {
  if (!within(table, rows * taps, 0, split + filled)) return BAD_INDEX;
  if (!channels) return DONE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long m = 0; m < rows; m++) {
    const int32_t *at = table + m * taps;
    float *o = out + m * channels;
    long c = 0;
    for (; c + BLOCK <= channels; c += BLOCK) {
      vec acc[4];
      for (int j = 0; j < 4; j++) acc[j] = bias ? LOAD(bias + c + j * LANES) : (vec){0};
      for (long t = 0; t < taps; t++) {
        const float *x = row(first, split, second, channels, at[t]) + c, *w = weights + t * channels + c;
        for (int j = 0; j < 4; j++) acc[j] += LOAD(x + j * LANES) * LOAD(w + j * LANES);
      }
      for (int j = 0; j < 4; j++) STORE(o + c + j * LANES, acc[j]);
    }
    for (; c + LANES <= channels; c += LANES) {
      vec acc = bias ? LOAD(bias + c) : (vec){0};
      for (long t = 0; t < taps; t++)
        acc += LOAD(row(first, split, second, channels, at[t]) + c) * LOAD(weights + t * channels + c);
      STORE(o + c, acc);
    }
    for (; c < channels; c++) {
      float acc = bias ? bias[c] : 0;
      for (long t = 0; t < taps; t++)
        acc += row(first, split, second, channels, at[t])[c] * weights[t * channels + c];
      o[c] = acc;
    }
    activate(o, channels, (int)how, (float)a, (float)b);
  }
  return DONE;
}

// out[m, c] = the largest of source[table[m, t], c] over the taps that name a row (not -1); -inf if none does
long maximum(const float *source, const int32_t *table, float *out, long held, long channels, long rows, long taps,
             long threads) {
  if (!within(table, rows * taps, -1, held)) return BAD_INDEX;
  if (!channels) return DONE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long m = 0; m < rows; m++) {
    float *o = out + m * channels;
    long seen = 0;
    for (long t = 0; t < taps; t++) {
      long s = table[m * taps + t];
      if (s < 0) continue;
      const float *a = source + s * channels;
      if (!seen++) memcpy(o, a, (size_t)channels * sizeof(float));
      else
        for (long c = 0; c < channels; c++) o[c] = a[c] > o[c] || a[c] != a[c] ? a[c] : o[c];
    }
    for (long c = 0; !seen && c < channels; c++) o[c] = -INFINITY;
  }
  return DONE;
}

INLINE float total(vec v) {
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += v[i];
  return sum;
}

// out[m, :] = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias of the row x = source[at[m], :]
// `at` NULL: row m; weight and bias: of all channels, or NULL
long layer_norm(const float *source, const int32_t *at, const float *weight, const float *bias, float *out, long held,
                long channels, long rows, double eps, long threads) {
  if (at && !within(at, rows, 0, held)) return BAD_INDEX;
  if (!channels) return DONE;
  long whole = channels / LANES * LANES;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long m = 0; m < rows; m++) {
    const float *x = source + (at ? at[m] : m) * channels;
    float *o = out + m * channels;
    vec sums = {0}, squares = {0};
    for (long c = 0; c < whole; c += LANES) sums += LOAD(x + c);
    float mean = total(sums);
    for (long c = whole; c < channels; c++) mean += x[c];
    mean /= (float)channels;
    for (long c = 0; c < whole; c += LANES) squares += (LOAD(x + c) - mean) * (LOAD(x + c) - mean);
    float var = total(squares);
    for (long c = whole; c < channels; c++) var += (x[c] - mean) * (x[c] - mean);
    float scale = 1.0f / sqrtf(var / (float)channels + (float)eps);
    for (long c = 0; c < channels; c++) o[c] = (x[c] - mean) * scale;
    if (weight)
      for (long c = 0; c < channels; c++) o[c] *= weight[c];
    if (bias)
      for (long c = 0; c < channels; c++) o[c] += bias[c];
  }
  return DONE;
}

INLINE void scale_and_shift(float *o, const float *x, const float *scale, const float *shift, long channels) {
  if (scale && shift)
    for (long c = 0; c < channels; c++) o[c] = x[c] * scale[c] + shift[c];
  else if (scale)
    for (long c = 0; c < channels; c++) o[c] = x[c] * scale[c];
  else if (shift)
    for (long c = 0; c < channels; c++) o[c] = x[c] + shift[c];
  else
    for (long c = 0; c < channels; c++) o[c] = x[c];
}

// out[m, c] = activation(source[at[m], c] * scale[c] + shift[c]), or with scales[scale_at[m], c] for scale[c]
// `at` NULL: row m; scale and scales NULL: 1; shift NULL: 0
long affine(const float *source, const int32_t *at, const float *scale, const float *scales, const int32_t *scale_at,
            const float *shift, float *out, long out_stride, long held, long channels, long rows, long many, long how,
            double a, double b, long threads) {
  if (at && !within(at, rows, 0, held)) return BAD_INDEX;
  if (scale_at && !within(scale_at, rows, 0, many)) return BAD_INDEX;
  if (!channels) return DONE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long m = 0; m < rows; m++) {
    const float *s = scale_at ? scales + scale_at[m] * channels : scale;
    float *o = out + m * out_stride;
    scale_and_shift(o, source + (at ? at[m] : m) * channels, s, shift, channels);
    activate(o, channels, (int)how, (float)a, (float)b);
  }
  return DONE;
}

// out[m, :] = activation(scale * (rows ats[p][m] of all sources p, side by side) + shift)
// ats[p] NULL: row m; scale NULL: 1; shift NULL: 0; held[p], widths[p]: rows and channels of source p
long side_by_side(const float *const *sources, const int32_t *const *ats, const long *held, const long *widths,
                  const float *scale, const float *shift, float *out, long parts, long rows, long channels, long how,
                  double a, double b, long threads) {
  for (long p = 0; p < parts; p++)
    if (ats[p] && !within(ats[p], rows, 0, held[p])) return BAD_INDEX;
  if (!channels) return DONE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long m = 0; m < rows; m++) {
    float *o = out + m * channels, *to = o;
    for (long p = 0; p < parts; to += widths[p++])
      if (widths[p]) memcpy(to, sources[p] + (ats[p] ? ats[p][m] : m) * widths[p], (size_t)widths[p] * sizeof(float));
    if (scale || shift) scale_and_shift(o, o, scale, shift, channels);
    activate(o, channels, (int)how, (float)a, (float)b);
  }
  return DONE;
}

// out[r, :] = the mean of the rows sources[r, 0], sources[r, 1], ... (8 at most, then -1), for begin <= r < end.
// A source of `split` or more is a row of `out` itself, made before.
long means(const float *source, const int32_t *sources, float *out, long split, long channels, long rows, long filled,
           long begin, long end, long threads) {
  (void)rows, (void)filled;
  if (!within(sources + begin * 8, (end - begin) * 8, -1, split + begin)) return BAD_INDEX;
  for (long r = begin; r < end; r++)
    if (sources[r * 8] < 0) return BAD_INDEX;
  if (!channels) return DONE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long r = begin; r < end; r++) {
    const int32_t *from = sources + r * 8;
    const float *rows_read[8];
    long count = 0;
    for (; count < 8 && from[count] >= 0; count++) rows_read[count] = row(source, split, out, channels, from[count]);
    mean_of_float(rows_read, count, out + r * channels, channels, 0);
  }
  return DONE;
}

// out[image, :] = the mean of rows begins[image] .. begins[image + 1] - 1, or 0 where there are none
long image_means(const float *source, const int64_t *begins, float *out, long rows, long channels, long images,
                 long threads) {
  if (!in_order(begins, images, rows)) return BAD_INDEX;
  if (!channels) return DONE;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long image = 0; image < images; image++) {
    float *o = out + image * channels;
    long begin = begins[image], end = begins[image + 1];
    for (long c = 0; c < channels; c++) o[c] = 0;
    for (long r = begin; r < end; r++)
      for (long c = 0; c < channels; c++) o[c] += source[r * channels + c];
    if (end > begin)
      for (long c = 0; c < channels; c++) o[c] /= (float)(end - begin);
  }
  return DONE;
}
