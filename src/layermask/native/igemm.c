#include <stdint.h>
#include <string.h>
#include <math.h>
#if defined(__AVX512F__)
#define VL 16
#define NV 4
#else
#define VL 8
#define NV 2
#endif
#define MR 6
#define NR (NV*VL)
#define KC 128
#define MC 96
typedef float vf __attribute__((vector_size(VL*4)));
typedef float vfu __attribute__((vector_size(VL*4), aligned(4)));

static inline __attribute__((always_inline)) void micro(int nv, const float *const *a, int kc, const float *w, float *c, long ldc) {
  vf acc[MR][NV];
  for (int i=0;i<MR;i++) for (int j=0;j<nv;j++) acc[i][j]=*(const vfu*)(c+i*ldc+j*VL);
  for (int k=0;k<kc;k++) {
    vf b[NV];
    for (int j=0;j<nv;j++) b[j]=*(const vf*)(w+(long)k*NR+j*VL);
    for (int i=0;i<MR;i++) { float s=a[i][k]; for (int j=0;j<nv;j++) acc[i][j]+=s*b[j]; }
  }
  for (int i=0;i<MR;i++) for (int j=0;j<nv;j++) *(vfu*)(c+i*ldc+j*VL)=acc[i][j];
}
// rows of a (V,C), table (M,T) or NULL, w packed [nb][T][C][NR]
void igemm(const float *a, const float *b, long V, const int32_t *table, long M, long T, long C, long K,
           const float *w, const float *bias, const float *res, float *out, int act, int threads) {
  long NB=(K+NR-1)/NR;
  #pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long m0=0;m0<M;m0+=MC) {
    long mc = M-m0<MC?M-m0:MC;
    float buf[MC*NR] __attribute__((aligned(64)));
    for (long nb=0;nb<NB;nb++) {
      long kn = K-nb*NR<NR?K-nb*NR:NR;
      int nv=(kn+VL-1)/VL;
      const float *wp=w+nb*T*C*NR;
      float bb[NR];
      for (int j=0;j<NR;j++) bb[j]= j<kn&&bias?bias[nb*NR+j]:0;
      for (long i=0;i<MC;i++) memcpy(buf+i*NR,bb,sizeof bb);
      for (long t=0;t<T;t++) for (long c0=0;c0<C;c0+=KC) {
        int kc=C-c0<KC?C-c0:KC;
        const float *ws=wp+(t*C+c0)*NR;
        for (long i=0;i<mc;i+=MR) {
          const float *p[MR];
          for (int r=0;r<MR;r++) { long m=m0+(i+r<mc?i+r:mc-1); long s=table?table[m*T+t]:m;
            p[r]=(s<V?a+s*C:b+(s-V)*C)+c0; }
          float *cc=buf+i*NR;
          switch(nv){case 1:micro(1,p,kc,ws,cc,NR);break;
          case 2:micro(2,p,kc,ws,cc,NR);break;
#if NV==4
          case 3:micro(3,p,kc,ws,cc,NR);break;
          case 4:micro(4,p,kc,ws,cc,NR);break;
#endif
          }
        }
      }
      for (long i=0;i<mc;i++) {
        float *o=out+(m0+i)*K+nb*NR; const float *s=buf+i*NR; const float *r=res?res+(m0+i)*K+nb*NR:0;
        if(r){ if(act) for(int j=0;j<kn;j++){float v=s[j]+r[j];o[j]=v>0?v:0;} else for(int j=0;j<kn;j++)o[j]=s[j]+r[j];}
        else { if(act) for(int j=0;j<kn;j++){float v=s[j];o[j]=v>0?v:0;} else for(int j=0;j<kn;j++)o[j]=s[j];}
      }
    }
  }
}
