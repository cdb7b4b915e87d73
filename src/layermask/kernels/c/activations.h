// Activations, as loops that compilers turn into vectors. NaN stays NaN, as in torch.
#include <math.h>

#include "vectors.h"

enum { CLAMP, SIGMOID, SILU, HARDSIGMOID, HARDSWISH, GELU, LEAKY };

INLINE float clamped(float v, float low, float high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

INLINE vec between(vec v, float low, float high) {
  vec least = (vec){0} + low, most = (vec){0} + high;
  bits_vec below = v < least;
  v = (vec)((below & (bits_vec)least) | (~below & (bits_vec)v));
  bits_vec above = v > most;
  return (vec)((above & (bits_vec)most) | (~above & (bits_vec)v));
}

// e^x to 2 units in the last place (the Cephes polynomial), within the range of float
INLINE float exponential(float x) {
  float y = x > -87.0f ? x : -87.0f;  // NaN too: it is given back in the end
  y = y < 88.0f ? y : 88.0f;
  float shifted = y * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  float r = y - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  memcpy(&bits, &p, 4);
  bits += (uint32_t)(int32_t)n << 23;
  memcpy(&p, &bits, 4);
  return x == x ? p : x;
}

// Abramowitz and Stegun 7.1.26, to 1.5e-7
INLINE float error_function(float x) {
  float a = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.3275911f * a);
  float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  float y = 1.0f - p * exponential(-a * a);
  return x < 0 ? -y : y;
}

INLINE void activate(float *v, long n, int how, float a, float b) {
#define EACH(f)                         \
  for (long i = 0; i < n; i++) {        \
    float x = v[i];                     \
    v[i] = f;                           \
  }                                     \
  break;
  switch (how) {
    case CLAMP: EACH(clamped(x, a, b))
    case SIGMOID: EACH(1.0f / (1.0f + exponential(-x)))
    case SILU: EACH(x / (1.0f + exponential(-x)) * (x < -88.0f ? 0.0f : 1.0f))
    case HARDSIGMOID: EACH(clamped(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f))
    case HARDSWISH: EACH(x * clamped(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f))
    case GELU: EACH(0.5f * x * (1.0f + error_function(x * 0.70710678f)))
    case LEAKY: EACH(x > 0 ? x : x * a)
  }
#undef EACH
}
