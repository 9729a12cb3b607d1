// What the sources share: 16 numbers at a time, in fp32 and as bf16.
#pragma once

#include <c10/util/BFloat16.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace toto {

using c10::BFloat16;
using Lanes = __m512;

constexpr int64_t LANES = 16;
constexpr float LOG2_E = 1.44269504f;

inline Lanes all(float value) { return _mm512_set1_ps(value); }

inline __mmask16 first(int64_t count) {
  return count >= LANES ? __mmask16(0xffff) : __mmask16((1u << std::max<int64_t>(count, 0)) - 1);
}

inline Lanes load(const BFloat16* from) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// The first `count` of them; the others are `other`. Masks are slow, and only a row's end needs them.
inline Lanes load(const BFloat16* from, int64_t count, float other) {
  if (count >= LANES) return load(from);
  const __m256i half = _mm256_maskz_loadu_epi16(first(count), from);
  const __m512i whole = _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
  return _mm512_mask_mov_ps(all(other), first(count), _mm512_castsi512_ps(whole));
}

inline Lanes load(const float* from) { return _mm512_loadu_ps(from); }

inline Lanes load(const float* from, int64_t count, float other) {
  if (count >= LANES) return load(from);
  return _mm512_mask_loadu_ps(all(other), first(count), from);
}

inline __m256i rounded(Lanes lanes) { return __m256i(_mm512_cvtneps_pbh(lanes)); }

inline void store(BFloat16* to, Lanes lanes) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded(lanes));
}

inline void store(BFloat16* to, Lanes lanes, int64_t count) {
  if (count >= LANES) return store(to, lanes);
  _mm256_mask_storeu_epi16(to, first(count), rounded(lanes));
}

inline void store(float* to, Lanes lanes) { _mm512_storeu_ps(to, lanes); }

// 2 to the power of each, within 3e-6 of it: a thousandth of what bf16 can tell. Half as many
// steps as torch's quickest exponential. NaN stays NaN.
inline Lanes exp2(Lanes power) {
  // A bound stands first, since of two numbers one of which is NaN the second one is taken.
  const Lanes bounded = _mm512_max_ps(all(-200.f), _mm512_min_ps(all(127.f), power));
  const Lanes whole = _mm512_roundscale_ps(bounded, 0), part = _mm512_sub_ps(bounded, whole);
  Lanes value = all(0.0095701f);
  for (float factor : {0.05591786f, 0.24024745f, 0.69312181f, 0.99999926f})
    value = _mm512_fmadd_ps(value, part, all(factor));
  return _mm512_scalef_ps(value, whole);
}

inline float sum(Lanes lanes) { return _mm512_reduce_add_ps(lanes); }

inline float highest(Lanes lanes) { return _mm512_reduce_max_ps(lanes); }

}  // namespace toto
