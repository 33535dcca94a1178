/* Kernels of an emitted policy. Nothing here allocates, keeps state or calls the system. */

/* One copy of a function for all its calls: a network has hundreds of them. */
#if defined(__clang__)
#define ROBOTRL_APART static __attribute__((noinline, unused))
#elif defined(__GNUC__)
#define ROBOTRL_APART static __attribute__((noinline, noclone, unused))
#else
#define ROBOTRL_APART static
#endif

/* y[r][o] = b[o] + sum_i x[r][i] w[i][o], i < k, o < m; b may be 0. The inner loops run along the rows of w,
 * so that they become vector instructions without changing the order of a sum. */
ROBOTRL_APART void robotrl_linear(const float *restrict x, const float *restrict w, const float *restrict b,
                                  int rows, int k, int m, float *restrict y)
{
    for (int r = 0; r < rows; r++, x += k, y += m) {
        int o = 0;
        for (; o + 64 <= m; o += 64) {
            float sum[64];
            for (int j = 0; j < 64; j++) sum[j] = b ? b[o + j] : 0.0f;
            for (int i = 0; i < k; i++)
                for (int j = 0; j < 64; j++) sum[j] += x[i] * w[i * m + o + j];
            for (int j = 0; j < 64; j++) y[o + j] = sum[j];
        }
        for (int j = o; j < m; j++) y[j] = b ? b[j] : 0.0f;
        for (int i = 0; i < k && o < m; i++)
            for (int j = o; j < m; j++) y[j] += x[i] * w[i * m + j];
    }
}

static inline uint32_t robotrl_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Compilers that assume finite numbers (-ffast-math) drop isfinite() and x != x; these bits they keep. */
static inline int robotrl_not_finite(float x) { return (robotrl_bits(x) & 0x7f800000u) == 0x7f800000u; }

static inline int robotrl_all_finite(const float *x, int n)
{
    int bad = 0;
    for (int i = 0; i < n; i++) bad |= robotrl_not_finite(x[i]);
    return !bad;
}

/* Written without branches and library calls, so that loops over it become vector instructions. Relative
 * error 2e-7; saturates outside [-87, 88]. e^x = 2^n e^r, Taylor in |r| <= ln(2)/2. */
static inline float robotrl_exp(float x)
{
    float t = x < -87.0f ? -87.0f : x;
    t = t > 88.0f ? 88.0f : t;
    float scaled = t * 1.44269504f;
    int n = (int)(scaled + (scaled < 0.0f ? -0.5f : 0.5f));
    float r = (t - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    float p = 1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120
              + r * (1.0f / 720 + r * (1.0f / 5040)))))));
    uint32_t bits = (uint32_t)(n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static inline float robotrl_tanh(float x)
{
    float e = robotrl_exp(-2.0f * fabsf(x));
    return copysignf((1.0f - e) / (1.0f + e), x);
}

static inline float robotrl_sigmoid(float x) { return 1.0f / (1.0f + robotrl_exp(-x)); }

static inline float robotrl_softplus(float x) { return (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x))); }

/* Abramowitz & Stegun 7.1.26: absolute error 1.5e-7. */
static inline float robotrl_erf(float x)
{
    float a = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * a);
    float p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f
              + t * 1.061405429f))));
    return copysignf(1.0f - p * robotrl_exp(-a * a), x);
}

static inline float robotrl_gelu(float x) { return 0.5f * x * (1.0f + robotrl_erf(x * 0.707106781f)); }

static inline float robotrl_gelu_tanh(float x)
{
    return x * robotrl_sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
}

static inline float robotrl_sum(const float *x, int n)
{
    float part[8] = {0}, total = 0.0f;
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) part[j] += x[i + j];
    for (; i < n; i++) total += x[i];
    for (int j = 0; j < 8; j++) total += part[j];
    return total;
}

/* Rows of n numbers to mean 0 and variance 1, then scale and shift; shift may be 0. */
ROBOTRL_APART void robotrl_layer_norm(const float *restrict x, const float *scale, const float *shift,
                                      float epsilon, int rows, int n, float *restrict y)
{
    for (int r = 0; r < rows; r++, x += n, y += n) {
        float mean = robotrl_sum(x, n) / (float)n;
        for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * (x[i] - mean);
        float inverse = 1.0f / sqrtf(robotrl_sum(y, n) / (float)n + epsilon);
        for (int i = 0; i < n; i++) y[i] = (x[i] - mean) * inverse * scale[i] + (shift ? shift[i] : 0.0f);
    }
}

ROBOTRL_APART void robotrl_softmax(const float *restrict x, int rows, int n, float *restrict y)
{
    for (int r = 0; r < rows; r++, x += n, y += n) {
        float most = x[0];
        for (int i = 1; i < n; i++) most = x[i] > most ? x[i] : most;
        for (int i = 0; i < n; i++) y[i] = robotrl_exp(x[i] - most);
        float inverse = 1.0f / robotrl_sum(y, n);
        for (int i = 0; i < n; i++) y[i] *= inverse;
    }
}
