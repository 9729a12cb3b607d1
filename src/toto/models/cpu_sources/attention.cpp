// Causal attention in bf16 for processors with AVX512's bf16 products, forward and backward.
//
// Blocks of queries against blocks of keys, as in FlashAttention (arXiv 2205.14135): no scores are
// kept but their log-sum by query. Products are torch's own block products (brgemm), which take
// their second factor with pairs of rows interleaved and give fp32; what lies between two products
// stays in the core's cache. A thread works on one head of one sequence at a time. Queries and keys
// are turned by their positions' angles when they are read, and their slopes when written.
//
// Shapes: qkv [B L 3D] as one matrix gives it, output [B L D], log-sums [B N L], angles [L K] or
// nothing. K, the width of a head, is a multiple of 32.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "lanes.h"

namespace toto {
namespace {

using at::Tensor;
using at::native::cpublas::brgemm;

constexpr int64_t QUERIES = 64, KEYS = 512;  // of a block, forward
constexpr int64_t BACK_QUERIES = 512, BACK_KEYS = 64;  // backward, where keys are the rows

int64_t even(int64_t count) { return (count + 1) / 2 * 2; }

// Rows of one head, `stride` numbers apart.
struct Rows {
  BFloat16* data;
  int64_t stride;
  BFloat16* operator[](int64_t row) const { return data + row * stride; }
};

void round_to(BFloat16* out, const float* in, int64_t width, float scale) {
  for (int64_t c = 0; c < width; c += LANES) store(out + c, _mm512_mul_ps(load(in + c), all(scale)));
}

// Two rows of bf16 as pairs.
__m512i paired(__m256i upper, __m256i lower) {
  return _mm512_or_si512(
      _mm512_cvtepu16_epi32(upper), _mm512_slli_epi32(_mm512_cvtepu16_epi32(lower), 16));
}

// As brgemm reads a second factor [rows columns]: rows 2r and 2r + 1 interleaved; an odd last row
// is paired with zeros.
void interleave(Rows in, int64_t rows, int64_t columns, BFloat16* out) {
  auto to = reinterpret_cast<uint32_t*>(out);
  for (int64_t row = 0; row < rows; row += 2, to += columns)
    for (int64_t c = 0; c < columns; c += LANES) {
      const __mmask16 there = first(columns - c);
      const __m256i upper = _mm256_maskz_loadu_epi16(there, in[row] + c);
      const __mmask16 paired_there = row + 1 < rows ? there : __mmask16(0);
      const __m256i lower = _mm256_maskz_loadu_epi16(paired_there, in[row + 1] + c);
      _mm512_mask_storeu_epi32(to + c, there, paired(upper, lower));
    }
}

// 16 x 16 pairs: two rows' are mixed one by one, then four rows' by two, then lanes of four.
void transpose_tile(const uint32_t* in, int64_t stride, uint32_t* out, int64_t out_stride) {
  __m512i one[LANES], two[LANES];
  for (int64_t r = 0; r < LANES; r++) one[r] = _mm512_loadu_si512(in + r * stride);
  for (int64_t r = 0; r < LANES; r += 2) {
    two[r] = _mm512_unpacklo_epi32(one[r], one[r + 1]);
    two[r + 1] = _mm512_unpackhi_epi32(one[r], one[r + 1]);
  }
  for (int64_t r = 0; r < LANES; r += 4)
    for (int64_t half = 0; half < 2; half++) {
      one[r + 2 * half] = _mm512_unpacklo_epi64(two[r + half], two[r + 2 + half]);
      one[r + 2 * half + 1] = _mm512_unpackhi_epi64(two[r + half], two[r + 2 + half]);
    }
  for (int64_t c = 0; c < 4; c++)
    for (int64_t half = 0; half < 8; half += 4) {
      two[half + c] = _mm512_shuffle_i32x4(one[2 * half + c], one[2 * half + 4 + c], 0x88);
      two[8 + half + c] = _mm512_shuffle_i32x4(one[2 * half + c], one[2 * half + 4 + c], 0xdd);
    }
  for (int64_t c = 0; c < 4; c++)
    for (int64_t odd = 0; odd < 2; odd++) {
      const __m512i upper = two[8 * odd + c], lower = two[8 * odd + 4 + c];
      auto to = out + (4 * odd + c) * out_stride;
      _mm512_storeu_si512(to, _mm512_shuffle_i32x4(upper, lower, 0x88));
      _mm512_storeu_si512(to + 8 * out_stride, _mm512_shuffle_i32x4(upper, lower, 0xdd));
    }
}

// Pairs of numbers, and not numbers, change places: out[c][r] = in[r][c].
void transpose_pairs(
    const uint32_t* in, int64_t rows, int64_t columns, int64_t stride, uint32_t* out,
    int64_t out_stride) {
  for (int64_t row = 0; row < rows; row += LANES)
    for (int64_t column = 0; column < columns; column += LANES) {
      auto from = in + row * stride + column;
      auto to = out + column * out_stride + row;
      if (row + LANES <= rows && column + LANES <= columns) {
        transpose_tile(from, stride, to, out_stride);
        continue;
      }
      for (int64_t r = 0; r < std::min(LANES, rows - row); r++)
        for (int64_t c = 0; c < std::min(LANES, columns - column); c++)
          to[c * out_stride + r] = from[r * stride + c];
    }
}

// What `interleave` gives of the transpose: pairs stay together, as their number is even.
void interleave_transposed(Rows in, int64_t rows, int64_t columns, BFloat16* out) {
  transpose_pairs(
      reinterpret_cast<const uint32_t*>(in.data), rows, columns / 2, in.stride / 2,
      reinterpret_cast<uint32_t*>(out), rows);
}

// Cosines and sines of all positions, of half a head's width; nothing turns without them.
struct Angles {
  const float *cos, *sin;
  int64_t width;

  Angles(const Tensor& cos_LK, const Tensor& sin_LK, int64_t width)
      : cos(cos_LK.numel() ? cos_LK.data_ptr<float>() : nullptr),
        sin(sin_LK.numel() ? sin_LK.data_ptr<float>() : nullptr),
        width(width) {}

  // The halves of one position's numbers, turned forwards (1) or backwards (-1).
  template <typename Out, typename In>
  void turn(Out* out, const In* in, int64_t position, float sign, float scale = 1) const {
    const int64_t half = width / 2;
    for (int64_t c = 0; c < half; c += LANES) {
      const Lanes x = _mm512_mul_ps(load(in + c), all(scale));
      const Lanes y = _mm512_mul_ps(load(in + half + c), all(scale));
      const Lanes cosine = load(cos + position * width + c);
      const Lanes sine = _mm512_mul_ps(load(sin + position * width + c), all(sign));
      store(out + c, _mm512_fmsub_ps(x, cosine, _mm512_mul_ps(y, sine)));
      store(out + half + c, _mm512_fmadd_ps(y, cosine, _mm512_mul_ps(x, sine)));
    }
  }

  // Queries or keys as the products take them: themselves, or turned ones in `room`.
  Rows turned(Rows in, int64_t places, std::vector<BFloat16>& room) const {
    if (!cos) return in;
    const Rows out{room.data(), width};
    for (int64_t place = 0; place < places; place++) turn(out[place], in[place], place, 1);
    return out;
  }

  void turn_back(BFloat16* out, const float* in, int64_t position, float scale) const {
    if (cos)
      turn(out, in, position, -1, scale);
    else
      round_to(out, in, width, scale);
  }
};

// Turns the scores of one query into unnormalised shares, and what it has taken so far to their
// scale. Returns by what that is multiplied. Everything is in powers of 2.
float take(
    const float* scores, int64_t seen, int64_t padded, float scale, BFloat16* shares, float& top,
    float& total) {
  Lanes tops = all(-INFINITY);
  for (int64_t at = 0; at < seen; at += LANES)
    tops = _mm512_max_ps(tops, load(scores + at, seen - at, -INFINITY));
  const float now = std::max(top, highest(tops) * scale), before = std::exp2(top - now);
  Lanes totals = all(0.f);
  for (int64_t at = 0; at < padded; at += LANES) {
    const Lanes score = load(scores + at, seen - at, -INFINITY);
    const Lanes share = exp2(_mm512_fmsub_ps(score, all(scale), all(now)));
    totals = _mm512_add_ps(totals, share);
    store(shares + at, share);
  }
  top = now;
  total = total * before + sum(totals);
  return before;
}

std::tuple<Tensor, Tensor> forward(
    const Tensor& qkv_BLD, const Tensor& cos, const Tensor& sin, int64_t heads, double scale) {
  const Tensor qkv = qkv_BLD.contiguous(), cosines = cos.contiguous(), sines = sin.contiguous();
  const int64_t sequences = qkv.size(0), places = qkv.size(1), all_width = qkv.size(2) / 3;
  const int64_t width = all_width / heads;
  Tensor mixed = at::empty({sequences, places, all_width}, qkv.options());
  Tensor log_sums = at::empty({sequences, heads, places}, qkv.options().dtype(at::kFloat));
  const auto given = qkv.data_ptr<BFloat16>(), to = mixed.data_ptr<BFloat16>();
  const auto all_sums = log_sums.data_ptr<float>();
  const Angles angles(cosines, sines, width);
  at::parallel_for(0, sequences * heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<BFloat16> turned_q(places * width), turned_k(places * width);
    std::vector<BFloat16> keys_t(places * width), pairs(even(places) * width);
    std::vector<BFloat16> shares(QUERIES * KEYS);
    std::vector<float> scores(QUERIES * KEYS), taken(QUERIES * width);
    std::vector<float> top(QUERIES), total(QUERIES);
    for (int64_t head = begin; head < end; head++) {
      const int64_t start = head / heads * places, column = head % heads * width;
      const auto from = given + start * 3 * all_width + column;
      const Rows q = angles.turned({from, 3 * all_width}, places, turned_q);
      const Rows k = angles.turned({from + all_width, 3 * all_width}, places, turned_k);
      const Rows v{from + 2 * all_width, 3 * all_width};
      const Rows out{to + start * all_width + column, all_width};
      const auto out_sums = all_sums + head * places;
      for (int64_t j = 0; j < places; j += KEYS)
        interleave_transposed(
            {k[j], k.stride}, std::min(KEYS, places - j), width, keys_t.data() + j * width);
      interleave(v, places, width, pairs.data());
      for (int64_t i = 0; i < places; i += QUERIES) {
        const int64_t rows = std::min(QUERIES, places - i);
        std::fill(top.begin(), top.end(), -INFINITY);
        std::fill(total.begin(), total.end(), 0.f);
        std::fill(taken.begin(), taken.end(), 0.f);
        for (int64_t j = 0; j < i + rows; j += KEYS) {
          const int64_t columns = std::min(KEYS, places - j);
          const int64_t reached = std::min(columns, i + rows - j), padded = even(reached);
          brgemm(
              rows, reached, width, q.stride, columns, KEYS, false, q[i], keys_t.data() + j * width,
              scores.data(), true);
          for (int64_t row = 0; row < rows; row++) {
            auto mine = shares.data() + row * KEYS;
            const int64_t seen = std::min(columns, i + row + 1 - j);
            if (seen <= 0) {
              std::fill(mine, mine + padded, BFloat16(0));
              continue;
            }
            const float before = take(
                scores.data() + row * KEYS, seen, padded, scale * LOG2_E, mine, top[row],
                total[row]);
            if (before == 1.f) continue;
            auto old = taken.data() + row * width;
            for (int64_t c = 0; c < width; c += LANES)
              store(old + c, _mm512_mul_ps(load(old + c), all(before)));
          }
          brgemm(
              rows, width, padded, KEYS, width, width, true, shares.data(),
              pairs.data() + j * width, taken.data(), true);
        }
        for (int64_t row = 0; row < rows; row++) {
          round_to(out[i + row], taken.data() + row * width, width, 1 / total[row]);
          out_sums[i + row] = top[row] / LOG2_E + std::log(total[row]);
        }
      }
    }
    at::native::cpublas::brgemm_release();
  });
  return {mixed, log_sums};
}

// Turns the scores of one or two keys with some queries into their shares of them, and the slopes by
// their shares into those by their scores, not yet scaled, both row by row and as pairs. The first
// `unseen` queries come before the first key. `scale` and the log-sums are for powers of 2.
void slopes_of(
    const float* scores, const float* by_share, const float* log_sums, const float* means,
    int64_t keys, int64_t unseen, int64_t count, float scale, BFloat16* shares, BFloat16* by_score,
    BFloat16* pairs) {
  for (int64_t at = 0; at < even(count); at += LANES) {
    __m256i scored[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t key = 0; key < keys; key++) {
      const int64_t here = key * BACK_QUERIES + at;
      const __mmask16 seen = first(count - at) & ~first(unseen + key - at);
      const Lanes power = _mm512_fmsub_ps(load(scores + here), all(scale), load(log_sums + at));
      const Lanes share = _mm512_maskz_mov_ps(seen, exp2(power));
      const Lanes above = _mm512_sub_ps(load(by_share + here), load(means + at));
      store(shares + here, share);
      scored[key] = rounded(_mm512_maskz_mul_ps(seen, share, above));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(by_score + here), scored[key]);
    }
    _mm512_storeu_si512(pairs + 2 * at, paired(scored[0], scored[1]));
  }
}

// Each query's mean slope under its shares: the softmax passes on only what differs from it.
float mean_slope(const BFloat16* slope, const BFloat16* mixed, int64_t width) {
  Lanes total = all(0.f);
  for (int64_t c = 0; c < width; c += LANES)
    total = _mm512_fmadd_ps(load(slope + c), load(mixed + c), total);
  return sum(total);
}

Tensor backward(
    const Tensor& slope_BLD, const Tensor& qkv_BLD, const Tensor& cos, const Tensor& sin,
    const Tensor& mixed_BLD, const Tensor& log_sums_BNL, int64_t heads, double scale) {
  const Tensor qkv = qkv_BLD.contiguous(), cosines = cos.contiguous(), sines = sin.contiguous();
  const Tensor slope = slope_BLD.contiguous(), mixed = mixed_BLD.contiguous();
  const int64_t sequences = qkv.size(0), places = qkv.size(1), all_width = qkv.size(2) / 3;
  const int64_t width = all_width / heads;
  // Rows of a power of two would share their places in the cache.
  const int64_t room = (places + BACK_QUERIES - 1) / BACK_QUERIES * BACK_QUERIES + 2 * LANES;
  Tensor by_qkv = at::empty_like(qkv);
  const auto given = qkv.data_ptr<BFloat16>(), to = by_qkv.data_ptr<BFloat16>();
  const auto all_slopes = slope.data_ptr<BFloat16>(), all_mixed = mixed.data_ptr<BFloat16>();
  const auto all_sums = log_sums_BNL.data_ptr<float>();
  const Angles angles(cosines, sines, width);
  at::parallel_for(0, sequences * heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<BFloat16> turned_q(places * width), turned_k(places * width);
    std::vector<BFloat16> q_t(room * width), q_pairs(room * width);
    std::vector<BFloat16> slope_t(room * width), slope_pairs(room * width);
    std::vector<BFloat16> k_pairs(room * width), keys_t(width * room);
    std::vector<BFloat16> shares(BACK_KEYS * BACK_QUERIES), by_score(BACK_KEYS * BACK_QUERIES);
    std::vector<BFloat16> by_score_pairs(BACK_KEYS * BACK_QUERIES);
    std::vector<float> scores(BACK_KEYS * BACK_QUERIES), by_share(BACK_KEYS * BACK_QUERIES);
    std::vector<float> sum_q(width * room), sum_k(BACK_KEYS * width), sum_v(BACK_KEYS * width);
    std::vector<float> by_q(LANES * width), means(room), log_sums(room);
    for (int64_t head = begin; head < end; head++) {
      const int64_t start = head / heads * places, column = head % heads * width;
      const auto from = given + start * 3 * all_width + column;
      const Rows q = angles.turned({from, 3 * all_width}, places, turned_q);
      const Rows k = angles.turned({from + all_width, 3 * all_width}, places, turned_k);
      const Rows v{from + 2 * all_width, 3 * all_width};
      const Rows slopes{all_slopes + start * all_width + column, all_width};
      const Rows outputs{all_mixed + start * all_width + column, all_width};
      const Rows to_q{to + start * 3 * all_width + column, 3 * all_width};
      const Rows to_k{to_q.data + all_width, 3 * all_width};
      const Rows to_v{to_q.data + 2 * all_width, 3 * all_width};
      for (int64_t i = 0; i < places; i += BACK_QUERIES) {
        const int64_t rows = std::min(BACK_QUERIES, places - i), at = i * width;
        interleave_transposed({q[i], q.stride}, rows, width, q_t.data() + at);
        interleave_transposed({slopes[i], slopes.stride}, rows, width, slope_t.data() + at);
        interleave({q[i], q.stride}, rows, width, q_pairs.data() + at);
        interleave({slopes[i], slopes.stride}, rows, width, slope_pairs.data() + at);
        for (int64_t place = i; place < i + rows; place++) {
          log_sums[place] = all_sums[head * places + place] * LOG2_E;
          means[place] = mean_slope(slopes[place], outputs[place], width);
        }
      }
      interleave(k, places, width, k_pairs.data());
      transpose_pairs(
          reinterpret_cast<const uint32_t*>(k_pairs.data()), even(places) / 2, width, width,
          reinterpret_cast<uint32_t*>(keys_t.data()), room / 2);
      std::fill(sum_q.begin(), sum_q.end(), 0.f);
      for (int64_t j = 0; j < places; j += BACK_KEYS) {
        const int64_t rows = std::min(BACK_KEYS, places - j);
        std::fill(sum_k.begin(), sum_k.end(), 0.f);
        std::fill(sum_v.begin(), sum_v.end(), 0.f);
        for (int64_t block = j / BACK_QUERIES * BACK_QUERIES; block < places;
             block += BACK_QUERIES) {
          // No query before the keys' first sees any of them.
          const int64_t i = std::max(block, j), skipped = i - block;
          const int64_t stored = std::min(BACK_QUERIES, places - block);
          const int64_t columns = stored - skipped, padded = even(columns);
          brgemm(
              rows, columns, width, k.stride, stored, BACK_QUERIES, false, k[j],
              q_t.data() + block * width + 2 * skipped, scores.data(), true);
          brgemm(
              rows, columns, width, v.stride, stored, BACK_QUERIES, false, v[j],
              slope_t.data() + block * width + 2 * skipped, by_share.data(), true);
          for (int64_t row = 0; row < rows; row += 2) {
            const int64_t at = row * BACK_QUERIES;
            slopes_of(
                scores.data() + at, by_share.data() + at, log_sums.data() + i, means.data() + i,
                std::min<int64_t>(2, rows - row), j + row - i, columns, scale * LOG2_E,
                shares.data() + at, by_score.data() + at, by_score_pairs.data() + at);
          }
          brgemm(
              rows, width, padded, BACK_QUERIES, width, width, true, shares.data(),
              slope_pairs.data() + i * width, sum_v.data(), true);
          brgemm(
              rows, width, padded, BACK_QUERIES, width, width, true, by_score.data(),
              q_pairs.data() + i * width, sum_k.data(), true);
          // The queries' slopes are summed transposed, so that keys need not be turned each time.
          brgemm(
              width, columns, even(rows), room, BACK_QUERIES, room, true, keys_t.data() + j,
              by_score_pairs.data(), sum_q.data() + i, true);
        }
        for (int64_t row = 0; row < rows; row++) {
          angles.turn_back(to_k[j + row], sum_k.data() + row * width, j + row, scale);
          round_to(to_v[j + row], sum_v.data() + row * width, width, 1);
        }
      }
      for (int64_t i = 0; i < places; i += LANES) {
        const int64_t rows = std::min(LANES, places - i);
        transpose_pairs(
            reinterpret_cast<const uint32_t*>(sum_q.data()) + i, width, rows, room,
            reinterpret_cast<uint32_t*>(by_q.data()), width);
        for (int64_t row = 0; row < rows; row++)
          angles.turn_back(to_q[i + row], by_q.data() + row * width, i + row, scale);
      }
    }
    at::native::cpublas::brgemm_release();
  });
  return by_qkv;
}

}  // namespace
}  // namespace toto

TORCH_LIBRARY_FRAGMENT(toto_cpu, library) {
  library.def(
      "attend(Tensor qkv, Tensor cos, Tensor sin, int heads, float scale) -> (Tensor, Tensor)");
  library.def(
      "attend_backward(Tensor slope, Tensor qkv, Tensor cos, Tensor sin, Tensor mixed, "
      "Tensor log_sums, int heads, float scale) -> Tensor");
  library.impl("attend", c10::DispatchKey::CPU, &toto::forward);
  library.impl("attend_backward", c10::DispatchKey::CPU, &toto::backward);
}
