/* The mean of some rows of channels, written to another: included once per TYPE, as fill.h is. */

#define CHUNK 64 /* channels whose sums stay in registers */

static void NAME(mean_of)(const TYPE *const *from, long count, TYPE *out, long channels, double eps) {
  REAL share = 1 / ((REAL)count + (REAL)eps);
  long c = 0;
  for (; c + CHUNK <= channels; c += CHUNK) {
    REAL sum[CHUNK];
    for (int j = 0; j < CHUNK; j++) sum[j] = READ(from[0][c + j]);
    for (long k = 1; k < count; k++)
      for (int j = 0; j < CHUNK; j++) sum[j] += READ(from[k][c + j]);
    for (int j = 0; j < CHUNK; j++) out[c + j] = WRITE(sum[j] * share);
  }
  for (; c < channels; c++) {
    REAL sum = READ(from[0][c]);
    for (long k = 1; k < count; k++) sum += READ(from[k][c]);
    out[c] = WRITE(sum * share);
  }
}

#undef CHUNK
