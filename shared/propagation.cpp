// Scores moved up a graph of terms, 16 proteins in one vector, for CPUs with AVX-512.
//
// A plain C interface: numbers and pointers only. Every function runs on the calling thread. Only maxima are taken,
// so the results are those of shared/propagation.py to the last bit.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr long ROWS = 16;  // proteins at a time: one column of them is a vector

inline __mmask16 first(long count) { return count >= 16 ? 0xffff : (__mmask16)((1u << count) - 1); }

// Rows of 16 become columns of 16.
inline void turn(__m512* x) {
  __m512 y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      const __m512d a = _mm512_castps_pd(y[i + j]), b = _mm512_castps_pd(y[i + j + 2]);
      x[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      x[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; j++) {
      y[i + j] = _mm512_shuffle_f32x4(x[i + j], x[i + j + 4], 0x88);
      y[i + j + 4] = _mm512_shuffle_f32x4(x[i + j], x[i + j + 4], 0xdd);
    }
  for (int j = 0; j < 8; j++) {
    x[j] = _mm512_shuffle_f32x4(y[j], y[j + 8], 0x88);
    x[j + 8] = _mm512_shuffle_f32x4(y[j], y[j + 8], 0xdd);
  }
}

}  // namespace

extern "C" {

int gowhy_supported() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"); }

// In place on [rows, terms]: parent = max(parent, child) for each edge, in the order given. `turned` holds 16 * terms
// floats, aligned to 64 bytes.
void gowhy_propagate_dense(float* block, long rows, long terms, const int32_t* children, const int32_t* parents, long edges,
                           float* turned) {
  __m512 tile[16];
  for (long from = 0; from < rows; from += ROWS) {
    const long held = rows - from < ROWS ? rows - from : ROWS;
    float* const top = block + from * terms;
    for (long term = 0; term < terms; term += 16) {
      const __mmask16 mask = first(terms - term);
      for (long i = 0; i < 16; i++) tile[i] = i < held ? _mm512_maskz_loadu_ps(mask, top + i * terms + term) : _mm512_setzero_ps();
      turn(tile);
      for (long j = 0; j < 16 && term + j < terms; j++) _mm512_store_ps(turned + (term + j) * 16, tile[j]);
    }
    for (long edge = 0; edge < edges; edge++) {
      float* const parent = turned + 16L * parents[edge];
      // Of two numbers one of which is NaN, max gives its second argument: a parent keeps its own.
      _mm512_store_ps(parent, _mm512_max_ps(_mm512_load_ps(turned + 16L * children[edge]), _mm512_load_ps(parent)));
    }
    for (long term = 0; term < terms; term += 16) {
      const __mmask16 mask = first(terms - term);
      for (long j = 0; j < 16; j++) tile[j] = term + j < terms ? _mm512_load_ps(turned + (term + j) * 16) : _mm512_setzero_ps();
      turn(tile);
      for (long i = 0; i < held; i++) _mm512_mask_storeu_ps(top + i * terms + term, mask, tile[i]);
    }
  }
}

// CSR in, CSR out; entries that are not positive count as absent. With `fill` a term with a value of its own keeps it.
// `turned` is as above and zero, and is left so; `absent` holds `terms` words of 16 set bits, and is left so. The
// caller has made room for every row.
void gowhy_propagate_sparse(const int64_t* pointer, const int32_t* index, const float* values, long rows, long terms,
                            const int32_t* children, const int32_t* parents, long edges, int fill, float* turned,
                            uint16_t* absent, int64_t* out_pointer, int32_t* out_index, float* out_values) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512 zero = _mm512_setzero_ps();
  __m512 tile[16];
  for (long from = 0; from < rows; from += ROWS) {
    const long held = rows - from < ROWS ? rows - from : ROWS;
    for (long i = 0; i < held; i++)
      for (int64_t k = pointer[from + i]; k < pointer[from + i + 1]; k++) {
        float* const own = turned + 16L * index[k] + i;
        if (values[k] > *own) *own = values[k];
        if (fill && values[k] > 0) absent[index[k]] &= (uint16_t)~(1u << i);
      }
    if (fill) {
      for (long edge = 0; edge < edges; edge++) {
        float* const parent = turned + 16L * parents[edge];
        const __m512 own = _mm512_load_ps(parent);
        _mm512_store_ps(parent, _mm512_mask_max_ps(own, absent[parents[edge]], own, _mm512_load_ps(turned + 16L * children[edge])));
      }
      for (long i = 0; i < held; i++)
        for (int64_t k = pointer[from + i]; k < pointer[from + i + 1]; k++) absent[index[k]] = 0xffff;
    } else {
      for (long edge = 0; edge < edges; edge++) {
        float* const parent = turned + 16L * parents[edge];
        _mm512_store_ps(parent, _mm512_max_ps(_mm512_load_ps(turned + 16L * children[edge]), _mm512_load_ps(parent)));
      }
    }
    __m512i counts = _mm512_setzero_si512();
    for (long term = 0; term < terms; term++) {
      const __mmask16 there = _mm512_cmp_ps_mask(_mm512_load_ps(turned + 16 * term), zero, _CMP_GT_OQ);
      counts = _mm512_mask_add_epi32(counts, there, counts, _mm512_set1_epi32(1));
    }
    alignas(64) int32_t count[16];
    _mm512_store_si512(count, counts);
    int64_t place[16];  // where the next term of each row goes
    for (long i = 0; i < held; i++) {
      place[i] = out_pointer[from + i];
      out_pointer[from + i + 1] = place[i] + count[i];
    }
    for (long term = 0; term < terms; term += 16) {
      __m512 any = zero;
      for (long j = 0; j < 16; j++) {
        tile[j] = term + j < terms ? _mm512_load_ps(turned + (term + j) * 16) : zero;
        any = _mm512_max_ps(any, tile[j]);
      }
      if (!_mm512_cmp_ps_mask(any, zero, _CMP_GT_OQ)) continue;
      for (long j = 0; j < 16 && term + j < terms; j++) _mm512_store_ps(turned + (term + j) * 16, zero);
      turn(tile);
      const __m512i names = _mm512_add_epi32(lanes, _mm512_set1_epi32((int)term));
      for (long i = 0; i < held; i++) {
        const __mmask16 there = _mm512_cmp_ps_mask(tile[i], zero, _CMP_GT_OQ);
        const int many = __builtin_popcount(there);
        _mm512_mask_storeu_ps(out_values + place[i], first(many), _mm512_maskz_compress_ps(there, tile[i]));
        _mm512_mask_storeu_epi32(out_index + place[i], first(many), _mm512_maskz_compress_epi32(there, names));
        place[i] += many;
      }
    }
  }
}

}
