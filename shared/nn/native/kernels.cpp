// Attention over packed sequences, residual + normalisation, and GELU, for CPUs with AVX-512 (and its bfloat16 part).
//
// A plain C interface: numbers and pointers only, so that it builds in seconds and needs no Python headers. Every
// function runs on the calling thread. A result depends on nothing but the arguments: sums have one order.
//
// Attention is the one-pass form of Milakov and Gimelshein 2018 (arXiv:1805.02867) over blocks of keys, as in
// FlashAttention (arXiv:2205.14135), with the shift of the exponents moved only where a score would leave a
// comfortable range: exp2(score - shift) is exact enough anywhere between 2^-126 and 2^60.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int ROWS = 8;         // queries at a time: their accumulators fill the registers
constexpr int BLOCK = 32;       // keys per step: two vectors of scores per query
constexpr int CHUNK = 256;      // keys between two visits of the output's accumulators
constexpr float LOG2E = 1.44269504088896f;
constexpr float HEADROOM = 60.f;

inline __mmask16 first(long count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1); }

// 16 numbers of a row, as float32; masked lanes are zero and not read.
template <bool HALF> inline __m512 load(const void* row, long at, __mmask16 mask) {
  if constexpr (HALF) {
    __m256i raw = _mm256_maskz_loadu_epi16(mask, (const uint16_t*)row + at);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
  } else {
    return _mm512_maskz_loadu_ps(mask, (const float*)row + at);
  }
}

template <bool HALF> inline void store(void* row, long at, __mmask16 mask, __m512 x) {
  if constexpr (HALF) _mm256_mask_storeu_epi16((uint16_t*)row + at, mask, (__m256i)_mm512_cvtneps_pbh(x));
  else _mm512_mask_storeu_ps((float*)row + at, mask, x);
}

// accumulator += product of 16 lanes; a lane is one float32, or two bfloat16.
template <bool HALF> inline __m512 dot(__m512 sum, __m512i a, __m512i b) {
  if constexpr (HALF) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  else return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

// 2^x for x <= 127, zero-like below -126: x = whole + rest, polynomial in the rest (smallest relative error).
template <bool HALF> inline __m512 exp2(__m512 x) {
  const __m512 magic = _mm512_set1_ps(12582912.f);  // 1.5 * 2^23: the whole part lands in the low bits
  x = _mm512_max_ps(x, _mm512_set1_ps(-126.f));
  const __m512 shifted = _mm512_add_ps(x, magic);
  const __m512 rest = _mm512_sub_ps(x, _mm512_sub_ps(shifted, magic));
  __m512 y;
  if constexpr (HALF) {  // 1e-4, below bfloat16's own rounding
    y = _mm512_set1_ps(0.055171546f);
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.24261111f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.69326103f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.99992806f));
  } else {  // 1e-7
    y = _mm512_set1_ps(0.0013276457f);
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.009675541f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.055507135f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.2402212f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.69314694f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(1.0000001f));
  }
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(y), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
}

// One row of queries or keys, turned by its rotary angles and scaled, as the lanes of `dot`: for bfloat16 the pair
// (i, i + half), which the dot product adds up wherever it stands.
template <bool HALF, int WIDTH> inline void turned(const void* row, const float* cosine, const float* sine, float scale, int32_t* out) {
  constexpr int half = WIDTH / 2;
  for (int i = 0; i < half; i += 16) {
    const __mmask16 mask = first(half - i);
    __m512 a = load<HALF>(row, i, mask), b = load<HALF>(row, i + half, mask);
    if (cosine) {
      const __m512 c = _mm512_maskz_loadu_ps(mask, cosine + i), s = _mm512_maskz_loadu_ps(mask, sine + i);
      const __m512 turned_a = _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s));
      b = _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s));
      a = turned_a;
    }
    a = _mm512_mul_ps(a, _mm512_set1_ps(scale));
    b = _mm512_mul_ps(b, _mm512_set1_ps(scale));
    if constexpr (HALF) {
      const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
      const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
      _mm512_mask_storeu_epi32(out + i, mask, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    } else {
      _mm512_mask_storeu_ps(out + i, mask, a);
      _mm512_mask_storeu_ps(out + i + half, mask, b);
    }
  }
}

struct Call {
  long heads, stride, out_stride;  // of one token, in elements
  const float *cosine, *sine;      // [position, width / 2], or null
  const float* bias;               // [head, bias_stride] by key - query, in units of log 2, or null
  long bias_stride, bias_centre;
  float scale;
};

template <bool HALF, int WIDTH> struct Head {
  static constexpr int SIZE = HALF ? 2 : 4;
  static constexpr int STEPS = HALF ? WIDTH / 2 : WIDTH;  // lanes of a row
  static constexpr int KEYS = HALF ? 2 : 1;               // keys in a lane of the weights and values
  static constexpr int BANKS = (WIDTH + 15) / 16;         // vectors of a value row

  static long workspace(long n) {
    const long padded = (n + BLOCK - 1) / BLOCK * BLOCK;
    return 64 * (padded / 16 * STEPS + padded / KEYS * BANKS) + 4096;
  }

  // scores of ROWS queries and 32 keys, minus the shift
  static inline void scores(const int32_t* queries, const __m512i* keys, const float* bias, long n, long key, const float* shift,
                            __m512* a, __m512* b) {
    for (int r = 0; r < ROWS; r++) {
      const __m512 start = _mm512_set1_ps(-shift[r]);
      a[r] = bias ? _mm512_add_ps(_mm512_loadu_ps(bias + key - r), start) : start;
      b[r] = bias ? _mm512_add_ps(_mm512_loadu_ps(bias + key - r + 16), start) : start;
    }
    const __m512i *left = keys + key / 16 * STEPS, *right = left + STEPS;
#pragma GCC unroll 8
    for (int i = 0; i < STEPS; i++) {
      const __m512i x = left[i], y = right[i];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) {
        const __m512i q = _mm512_set1_epi32(queries[r * STEPS + i]);
        a[r] = dot<HALF>(a[r], x, q);
        b[r] = dot<HALF>(b[r], y, q);
      }
    }
    if (key + BLOCK > n) {
      const __m512 never = _mm512_set1_ps(-1e30f);
      for (int r = 0; r < ROWS; r++) {
        a[r] = _mm512_mask_blend_ps(first(n - key), never, a[r]);
        b[r] = _mm512_mask_blend_ps(first(n - key - 16), never, b[r]);
      }
    }
  }

  // weights of keys [begin, end) and their sums; the largest exponent that was met
  static float weigh(const int32_t* queries, const __m512i* keys, const float* bias, long n, long begin, long end,
                     const float* shift, int32_t* weights, __m512* sums) {
    __m512 top = _mm512_set1_ps(-1e30f);
    for (int r = 0; r < ROWS; r++) sums[r] = _mm512_setzero_ps();
    for (long key = begin; key < end; key += BLOCK) {
      __m512 a[ROWS], b[ROWS];
      scores(queries, keys, bias, n, key, shift, a, b);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) {
        top = _mm512_max_ps(top, _mm512_max_ps(a[r], b[r]));
        const __m512 x = exp2<HALF>(a[r]), y = exp2<HALF>(b[r]);
        sums[r] = _mm512_add_ps(sums[r], _mm512_add_ps(x, y));
        int32_t* to = weights + r * (CHUNK / KEYS) + (key - begin) / KEYS;
        if constexpr (HALF) _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(y, x));
        else { _mm512_store_ps(to, x); _mm512_store_ps(to + 16, y); }
      }
    }
    return _mm512_reduce_max_ps(top);
  }

  // each query's largest score minus the shift, over keys [begin, end)
  static void largest(const int32_t* queries, const __m512i* keys, const float* bias, long n, long begin, long end,
                      const float* shift, float* found) {
    for (int r = 0; r < ROWS; r++) found[r] = -1e30f;
    for (long key = begin; key < end; key += BLOCK) {
      __m512 a[ROWS], b[ROWS];
      scores(queries, keys, bias, n, key, shift, a, b);
      for (int r = 0; r < ROWS; r++) found[r] = std::fmax(found[r], _mm512_reduce_max_ps(_mm512_max_ps(a[r], b[r])));
    }
  }

  // sums += weights of keys [begin, end) times their values
  static void add_values(const int32_t* weights, const __m512i* values, long begin, long end, float* sums) {
    const long lanes = (end - begin) / KEYS;
    const __m512i* from = values + begin / KEYS * BANKS;
    int bank = 0;
    for (; bank + 1 < BANKS; bank += 2) {
      __m512 a[ROWS], b[ROWS];
      for (int r = 0; r < ROWS; r++) {
        a[r] = _mm512_load_ps(sums + (r * BANKS + bank) * 16);
        b[r] = _mm512_load_ps(sums + (r * BANKS + bank + 1) * 16);
      }
      for (long j = 0; j < lanes; j++) {
        const __m512i x = from[j * BANKS + bank], y = from[j * BANKS + bank + 1];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
          const __m512i w = _mm512_set1_epi32(weights[r * (CHUNK / KEYS) + j]);
          a[r] = dot<HALF>(a[r], x, w);
          b[r] = dot<HALF>(b[r], y, w);
        }
      }
      for (int r = 0; r < ROWS; r++) {
        _mm512_store_ps(sums + (r * BANKS + bank) * 16, a[r]);
        _mm512_store_ps(sums + (r * BANKS + bank + 1) * 16, b[r]);
      }
    }
    if (bank < BANKS) {  // one bank: two streams of keys keep the multipliers busy
      __m512 a[ROWS], b[ROWS];
      for (int r = 0; r < ROWS; r++) {
        a[r] = _mm512_load_ps(sums + (r * BANKS + bank) * 16);
        b[r] = _mm512_setzero_ps();
      }
      for (long j = 0; j < lanes; j += 2) {
        const __m512i x = from[j * BANKS + bank], y = from[(j + 1) * BANKS + bank];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
          const int32_t* w = weights + r * (CHUNK / KEYS) + j;
          a[r] = dot<HALF>(a[r], x, _mm512_set1_epi32(w[0]));
          b[r] = dot<HALF>(b[r], y, _mm512_set1_epi32(w[1]));
        }
      }
      for (int r = 0; r < ROWS; r++) _mm512_store_ps(sums + (r * BANKS + bank) * 16, _mm512_add_ps(a[r], b[r]));
    }
  }

  static void pack(const char* k, const char* v, const Call& call, long n, long padded, __m512i* keys, __m512i* values) {
    alignas(64) int32_t rows[16 * STEPS];
    const __m512i step = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(STEPS));
    for (long j = 0; j < padded; j += 16) {
      for (long i = 0; i < 16; i++) {
        if (j + i < n) {
          const long at = (j + i) * (WIDTH / 2);
          turned<HALF, WIDTH>(k + (j + i) * call.stride * SIZE, call.cosine ? call.cosine + at : nullptr, call.cosine ? call.sine + at : nullptr, 1.f, rows + i * STEPS);
        } else memset(rows + i * STEPS, 0, STEPS * 4);
      }
      for (int i = 0; i < STEPS; i++) keys[j / 16 * STEPS + i] = _mm512_i32gather_epi32(step, rows + i, 4);
    }
    for (long j = 0; j < padded; j += KEYS)
      for (int bank = 0; bank < BANKS; bank++) {
        const __mmask16 mask = first(WIDTH - bank * 16);
        const char* row = v + j * call.stride * SIZE;
        __m512i lanes;
        if constexpr (HALF) {
          const __m256i even = _mm256_maskz_loadu_epi16(j < n ? mask : 0, (const uint16_t*)row + bank * 16);
          const __m256i odd = _mm256_maskz_loadu_epi16(j + 1 < n ? mask : 0, (const uint16_t*)row + call.stride + bank * 16);
          lanes = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
        } else {
          lanes = _mm512_maskz_loadu_epi32(j < n ? mask : 0, (const int32_t*)row + bank * 16);
        }
        values[j / KEYS * BANKS + bank] = lanes;
      }
  }

  static void run(const char* qkv, const Call& call, long head, long n, char* out, char* space) {
    const long padded = (n + BLOCK - 1) / BLOCK * BLOCK, width = call.heads * WIDTH;
    __m512i* keys = (__m512i*)space;
    __m512i* values = keys + padded / 16 * STEPS;
    const char* q = qkv + head * WIDTH * SIZE;
    pack(q + width * SIZE, q + 2 * width * SIZE, call, n, padded, keys, values);
    alignas(64) int32_t queries[ROWS * STEPS];
    alignas(64) int32_t weights[ROWS * CHUNK / KEYS];
    alignas(64) float sums[ROWS * BANKS * 16];
    for (long begin = 0; begin < n; begin += ROWS) {
      const long rows = n - begin < ROWS ? n - begin : ROWS;
      for (long r = 0; r < ROWS; r++) {
        const long at = begin + (r < rows ? r : 0), turn = at * (WIDTH / 2);
        turned<HALF, WIDTH>(q + at * call.stride * SIZE, call.cosine ? call.cosine + turn : nullptr, call.cosine ? call.sine + turn : nullptr, call.scale * LOG2E, queries + r * STEPS);
      }
      const float* bias = call.bias ? call.bias + head * call.bias_stride + call.bias_centre - begin : nullptr;
      const float none[ROWS] = {};
      float shift[ROWS], found[ROWS];
      largest(queries, keys, bias, n, 0, BLOCK, none, shift);
      __m512 total[ROWS], part[ROWS];
      for (int r = 0; r < ROWS; r++) total[r] = _mm512_setzero_ps();
      memset(sums, 0, sizeof sums);
      for (long key = 0; key < padded; key += CHUNK) {
        const long end = key + CHUNK < padded ? key + CHUNK : padded;
        if (weigh(queries, keys, bias, n, key, end, shift, weights, part) > HEADROOM) {
          largest(queries, keys, bias, n, key, end, shift, found);
          for (int r = 0; r < ROWS; r++) {
            const float up = std::fmax(found[r], 0.f), down = std::exp2(-up);
            shift[r] += up;
            total[r] = _mm512_mul_ps(total[r], _mm512_set1_ps(down));
            for (int bank = 0; bank < BANKS; bank++) {
              float* at = sums + (r * BANKS + bank) * 16;
              _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), _mm512_set1_ps(down)));
            }
          }
          weigh(queries, keys, bias, n, key, end, shift, weights, part);
        }
        for (int r = 0; r < ROWS; r++) total[r] = _mm512_add_ps(total[r], part[r]);
        add_values(weights, values, key, end, sums);
      }
      for (long r = 0; r < rows; r++) {
        const __m512 inverse = _mm512_set1_ps(1.f / _mm512_reduce_add_ps(total[r]));
        char* row = out + ((begin + r) * call.out_stride + head * WIDTH) * SIZE;
        for (int bank = 0; bank < BANKS; bank++)
          store<HALF>(row, bank * 16, first(WIDTH - bank * 16), _mm512_mul_ps(_mm512_load_ps(sums + (r * BANKS + bank) * 16), inverse));
      }
    }
  }
};

template <bool HALF, int WIDTH> int sequences(const char* qkv, const int64_t* starts, long count, const Call& call, char* out) {
  using Kernel = Head<HALF, WIDTH>;
  long longest = 0;
  for (long i = 0; i < count; i++) longest = starts[i + 1] - starts[i] > longest ? starts[i + 1] - starts[i] : longest;
  char* space = (char*)std::aligned_alloc(64, (Kernel::workspace(longest) + 63) / 64 * 64);
  if (!space) return 2;
  for (long i = 0; i < count; i++)
    for (long head = 0; head < call.heads; head++)
      Kernel::run(qkv + starts[i] * call.stride * Kernel::SIZE, call, head, starts[i + 1] - starts[i], out + starts[i] * call.out_stride * Kernel::SIZE, space);
  std::free(space);
  return 0;
}

template <bool HALF> int by_width(long width, const char* qkv, const int64_t* starts, long count, const Call& call, char* out) {
  switch (width) {
    case 16: return sequences<HALF, 16>(qkv, starts, count, call, out);
    case 24: return sequences<HALF, 24>(qkv, starts, count, call, out);
    case 32: return sequences<HALF, 32>(qkv, starts, count, call, out);
    case 64: return sequences<HALF, 64>(qkv, starts, count, call, out);
    case 128: return sequences<HALF, 128>(qkv, starts, count, call, out);
  }
  return 1;
}

}  // namespace

extern "C" {

// Whether this processor has what the code below was compiled for.
int gowhy_supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16");
}

// out [T, heads * width] = softmax(scale * q k' + bias) v for each of `count` sequences of the packed qkv [T, 3 * heads * width].
// Returns 0; 1 for a width that has no kernel; 2 without memory.
int gowhy_attention(int half, const void* qkv, const int64_t* starts, long count, long heads, long width, float scale,
                    const float* cosine, const float* sine, const float* bias, long bias_stride, long bias_centre, void* out) {
  const Call call{heads, 3 * heads * width, heads * width, cosine, sine, bias, bias_stride, bias_centre, scale};
  return half ? by_width<true>(width, (const char*)qkv, starts, count, call, (char*)out)
              : by_width<false>(width, (const char*)qkv, starts, count, call, (char*)out);
}

// x [T, dim] float32 += update (bfloat16; null: nothing), then out (bfloat16) = (x - mean) / deviation * gain + shift.
// Without `centred` the mean is taken as 0. dim is a multiple of 16.
void gowhy_add_norm(float* x, const void* update, const float* gain, const float* shift, float epsilon, int centred, long tokens,
                    long dim, void* out) {
  for (long token = 0; token < tokens; token++) {
    float* row = x + token * dim;
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (long i = 0; i < dim; i += 16) {
      __m512 v = _mm512_loadu_ps(row + i);
      if (update) {
        v = _mm512_add_ps(v, load<true>(update, token * dim + i, 0xffff));
        _mm512_storeu_ps(row + i, v);
      }
      sum = _mm512_add_ps(sum, v);
      squares = _mm512_fmadd_ps(v, v, squares);
    }
    const __m512 mean = _mm512_set1_ps(centred ? _mm512_reduce_add_ps(sum) / dim : 0.f);
    if (centred) {  // from the centred values: a difference of squares would cancel
      squares = _mm512_setzero_ps();
      for (long i = 0; i < dim; i += 16) {
        const __m512 v = _mm512_sub_ps(_mm512_loadu_ps(row + i), mean);
        squares = _mm512_fmadd_ps(v, v, squares);
      }
    }
    const __m512 inverse = _mm512_set1_ps(1.f / std::sqrt(_mm512_reduce_add_ps(squares) / dim + epsilon));
    for (long i = 0; i < dim; i += 16) {
      __m512 v = _mm512_mul_ps(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + i), mean), inverse), _mm512_loadu_ps(gain + i));
      if (shift) v = _mm512_add_ps(v, _mm512_loadu_ps(shift + i));
      store<true>(out, token * dim + i, 0xffff, v);
    }
  }
}

// x (bfloat16) = x * Phi(x) in place, Phi by Abramowitz and Stegun 7.1.26, far below bfloat16's rounding.
void gowhy_gelu(void* x, long count) {
  const __m512 one = _mm512_set1_ps(1.f), half = _mm512_set1_ps(0.5f);
  for (long i = 0; i < count; i += 16) {
    const __mmask16 mask = first(count - i);
    const __m512 v = load<true>(x, i, mask), size = _mm512_abs_ps(v);
    const __m512 t = _mm512_rcp14_ps(_mm512_fmadd_ps(size, _mm512_set1_ps(0.3275911f * 0.70710678f), one));
    __m512 p = _mm512_set1_ps(1.061405429f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f));
    const __m512 tail = exp2<true>(_mm512_mul_ps(_mm512_mul_ps(v, v), _mm512_set1_ps(-0.5f * LOG2E)));
    const __m512 beyond = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(p, t), tail), half);  // 1 - Phi(|x|)
    const __mmask16 negative = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 phi = _mm512_mask_blend_ps(negative, _mm512_sub_ps(one, beyond), beyond);
    store<true>(x, i, mask, _mm512_mul_ps(v, phi));
  }
}
}
