/* Integrate, fire and reset over all time steps of a block of neurons, and the adjoint.
 *
 * Arrays are [steps][size]; a time stride of 0 means that every step reads the same values. Potentials and given slopes
 * are float (double for double arrays). Compile with -ffp-contract=off: the spikes must equal those of the plain loop.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <math.h>

#ifdef VECTOR_EXP /* glibc's vector library declares these only under -ffast-math */
#pragma omp declare simd notinbranch
extern float expf(float);
#pragma omp declare simd notinbranch
extern double exp(double);
#endif

#define BLOCK 256

enum { TRIANGLE, SIGMOID, ARCTAN, RECTANGLE, EXPONENTIAL, GAUSSIAN, STRAIGHT_THROUGH, GIVEN };

typedef struct {
    double leak, threshold, a, b;
    int64_t steps, size, kind, hard_reset, detach_reset, threads;
} Neuron;

static inline float from_bfloat16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t to_bfloat16(float x) { /* round to nearest even; quiet NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint16_t rounded = (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    return x != x ? 0x7FC0 : rounded;
}

#define SAME(x) (x)

#define EACH for (int64_t i = 0; i < n; i++)
#define SIMD _Pragma("omp simd")

#define DEFINE(NAME, ARRAY, REAL, LOAD, STORE, FABS, EXP)                                                              \
    static void charge_##NAME(const ARRAY *in, REAL *v, REAL *u, int64_t n, const Neuron *p) {                         \
        const REAL leak = (REAL)p->leak, threshold = (REAL)p->threshold;                                               \
        if (p->hard_reset) {                                                                                           \
            SIMD EACH {                                                                                                \
                u[i] = leak * v[i] + LOAD(in[i]);                                                                      \
                v[i] = u[i] * (1 - (REAL)(u[i] >= threshold));                                                         \
            }                                                                                                          \
        } else {                                                                                                       \
            SIMD EACH {                                                                                                \
                u[i] = leak * v[i] + LOAD(in[i]);                                                                      \
                v[i] = u[i] - threshold * (REAL)(u[i] >= threshold);                                                   \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static void slope_##NAME(const REAL *u, REAL *slope, int64_t n, const Neuron *p) {                                 \
        const REAL threshold = (REAL)p->threshold, a = (REAL)p->a, b = (REAL)p->b;                                     \
        switch (p->kind) {                                                                                             \
        case TRIANGLE:                                                                                                 \
            SIMD EACH {                                                                                                \
                REAL d = a - FABS(u[i] - threshold);                                                                   \
                slope[i] = (d > 0 ? d : 0) / (a * a);                                                                  \
            }                                                                                                          \
            break;                                                                                                     \
        case SIGMOID:                                                                                                  \
            SIMD EACH {                                                                                                \
                REAL e = EXP(-a * FABS(u[i] - threshold)); /* the slope is even; e ≤ 1 cannot overflow */              \
                slope[i] = a * e / ((1 + e) * (1 + e));                                                                \
            }                                                                                                          \
            break;                                                                                                     \
        case ARCTAN:                                                                                                   \
            SIMD EACH {                                                                                                \
                REAL d = b * (u[i] - threshold); /* b = π/2·α */                                                       \
                slope[i] = (a / 2) / (1 + d * d);                                                                      \
            }                                                                                                          \
            break;                                                                                                     \
        case RECTANGLE:                                                                                                \
            SIMD EACH slope[i] = (REAL)(FABS(u[i] - threshold) < a / 2) / a;                                           \
            break;                                                                                                     \
        case EXPONENTIAL:                                                                                              \
            SIMD EACH slope[i] = a * EXP(-b * FABS(u[i] - threshold));                                                 \
            break;                                                                                                     \
        case GAUSSIAN:                                                                                                 \
            SIMD EACH {                                                                                                \
                REAL d = (u[i] - threshold) / a;                                                                       \
                slope[i] = EXP((REAL)-0.5 * d * d) * b; /* b = 1 / (σ·√(2π)) */                                        \
            }                                                                                                          \
            break;                                                                                                     \
        default:                                                                                                       \
            SIMD EACH slope[i] = 1;                                                                                    \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static void adjoint_##NAME(const ARRAY *grad, const REAL *u, const REAL *slope, REAL *grad_v, ARRAY *out,          \
                               int64_t n, const Neuron *p) {                                                           \
        const REAL leak = (REAL)p->leak, threshold = (REAL)p->threshold;                                               \
        const REAL reset = p->detach_reset ? 0 : 1;                                                                    \
        if (p->hard_reset) {                                                                                           \
            SIMD EACH {                                                                                                \
                REAL dv_du = 1 - (REAL)(u[i] >= threshold) - reset * u[i] * slope[i];                                  \
                REAL g = LOAD(grad[i]) * slope[i] + grad_v[i] * dv_du;                                                 \
                out[i] = STORE(g);                                                                                     \
                grad_v[i] = leak * g;                                                                                  \
            }                                                                                                          \
        } else {                                                                                                       \
            SIMD EACH {                                                                                                \
                REAL g = LOAD(grad[i]) * slope[i] + grad_v[i] * (1 - reset * threshold * slope[i]);                    \
                out[i] = STORE(g);                                                                                     \
                grad_v[i] = leak * g;                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    int forward_##NAME(const ARRAY *currents, int64_t stride, ARRAY *spikes, const Neuron *p) {                        \
        _Pragma("omp parallel for schedule(static) num_threads((int)p->threads)")                                      \
        for (int64_t start = 0; start < p->size; start += BLOCK) {                                                     \
            const int64_t n = p->size - start < BLOCK ? p->size - start : BLOCK;                                       \
            const REAL threshold = (REAL)p->threshold;                                                                 \
            REAL v[BLOCK] = {0}, u[BLOCK];                                                                             \
            for (int64_t t = 0; t < p->steps; t++) {                                                                   \
                ARRAY *out = spikes + t * p->size + start;                                                             \
                charge_##NAME(currents + t * stride + start, v, u, n, p);                                              \
                SIMD EACH out[i] = STORE((REAL)(u[i] >= threshold));                                                   \
            }                                                                                                          \
        }                                                                                                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    int potentials_##NAME(const ARRAY *currents, int64_t stride, REAL *u, const Neuron *p) {                           \
        _Pragma("omp parallel for schedule(static) num_threads((int)p->threads)")                                      \
        for (int64_t start = 0; start < p->size; start += BLOCK) {                                                     \
            const int64_t n = p->size - start < BLOCK ? p->size - start : BLOCK;                                       \
            REAL v[BLOCK] = {0};                                                                                       \
            for (int64_t t = 0; t < p->steps; t++)                                                                     \
                charge_##NAME(currents + t * stride + start, v, u + t * p->size + start, n, p);                        \
        }                                                                                                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
                                                                                                                       \
    /* Returns 0, or 1 where there was no memory for the potentials. The slopes are read where the kind is GIVEN. */   \
    int backward_##NAME(const ARRAY *grad, int64_t grad_stride, const ARRAY *currents, int64_t stride,                 \
                        const REAL *slopes, int64_t slopes_stride, ARRAY *out, const Neuron *p) {                      \
        int failed = 0;                                                                                                \
        _Pragma("omp parallel num_threads((int)p->threads) reduction(|: failed)")                                      \
        {                                                                                                              \
            REAL *u = malloc(sizeof(REAL) * BLOCK * (size_t)p->steps);                                                 \
            failed = u == NULL;                                                                                        \
            _Pragma("omp for schedule(static)")                                                                        \
            for (int64_t start = 0; start < p->size; start += BLOCK) {                                                 \
                const int64_t n = p->size - start < BLOCK ? p->size - start : BLOCK;                                   \
                REAL v[BLOCK] = {0}, slope[BLOCK], grad_v[BLOCK] = {0};                                                \
                if (u == NULL)                                                                                         \
                    continue;                                                                                          \
                for (int64_t t = 0; t < p->steps; t++)                                                                 \
                    charge_##NAME(currents + t * stride + start, v, u + t * BLOCK, n, p);                              \
                for (int64_t t = p->steps - 1; t >= 0; t--) {                                                          \
                    const REAL *h = p->kind == GIVEN ? slopes + t * slopes_stride + start : slope;                     \
                    if (p->kind != GIVEN)                                                                              \
                        slope_##NAME(u + t * BLOCK, slope, n, p);                                                      \
                    adjoint_##NAME(grad + t * grad_stride + start, u + t * BLOCK, h, grad_v,                           \
                                   out + t * p->size + start, n, p);                                                   \
                }                                                                                                      \
            }                                                                                                          \
            free(u);                                                                                                   \
        }                                                                                                              \
        return failed;                                                                                                 \
    }

DEFINE(float32, float, float, SAME, SAME, fabsf, expf)
DEFINE(float64, double, double, SAME, SAME, fabs, exp)
DEFINE(bfloat16, uint16_t, float, from_bfloat16, to_bfloat16, fabsf, expf)
