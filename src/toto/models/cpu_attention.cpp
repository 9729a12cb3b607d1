// Causal attention in bf16 for processors with AVX512's bf16 products, forward and backward.
//
// Blocks of queries against blocks of keys, as in FlashAttention (arXiv 2205.14135): no scores are
// kept but their log-sum by query. Products are torch's own block products (brgemm), which take
// their second factor with pairs of rows interleaved and give fp32; what lies between two products
// stays in the core's cache. A thread works on one head of one sequence at a time.
//
// Built and declared to Python by cpu_attention.py. Shapes: q, k, v [B N L K], log-sums [B N L].

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/native/CPUBlas.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

namespace {

using at::BFloat16;
using at::Tensor;
using at::native::cpublas::brgemm;
using Lanes = at::vec::Vectorized<float>;
using HalfLanes = at::vec::Vectorized<BFloat16>;

constexpr int64_t LANES = Lanes::size();
constexpr int64_t PAIR = 2 * LANES;  // bf16 numbers in a register
constexpr int64_t QUERIES = 128, KEYS = 256;  // of a block, forward
constexpr int64_t BACK_QUERIES = 256, BACK_KEYS = 64;  // backward, where keys are the rows

int64_t even(int64_t count) { return (count + 1) / 2 * 2; }

float sum(Lanes lanes) {
  return at::vec::vec_reduce_all<float>([](Lanes& x, Lanes& y) { return x + y; }, lanes);
}

float highest(Lanes lanes) {
  return at::vec::vec_reduce_all<float>(
      [](Lanes& x, Lanes& y) { return at::vec::maximum(x, y); }, lanes);
}

void round_to(BFloat16* out, const float* in, int64_t count) {
  int64_t at = 0;
  for (; at + PAIR <= count; at += PAIR)
    at::vec::convert_float_bfloat16(Lanes::loadu(in + at), Lanes::loadu(in + at + LANES))
        .store(out + at);
  for (; at < count; at++) out[at] = in[at];
}

// As brgemm reads a second factor [rows columns]: rows 2r and 2r + 1 interleaved; an odd last row
// is paired with zeros.
void interleave(const BFloat16* in, int64_t rows, int64_t columns, int64_t stride, BFloat16* out) {
  auto from = reinterpret_cast<const uint16_t*>(in);
  auto to = reinterpret_cast<uint32_t*>(out);
  for (int64_t row = 0; row < rows; row += 2, to += columns) {
    auto upper = from + row * stride;
    auto lower = upper + stride;
    if (row + 1 < rows)
      for (int64_t c = 0; c < columns; c++) to[c] = uint32_t(upper[c]) | uint32_t(lower[c]) << 16;
    else
      for (int64_t c = 0; c < columns; c++) to[c] = upper[c];
  }
}

// The same of the transpose of `in`, whose number of columns is even: pairs stay together.
void interleave_transposed(const BFloat16* in, int64_t rows, int64_t columns, BFloat16* out) {
  auto from = reinterpret_cast<const uint32_t*>(in);
  auto to = reinterpret_cast<uint32_t*>(out);
  for (int64_t first = 0; first < rows; first += 16)
    for (int64_t pair = 0; pair < columns / 2; pair++)
      for (int64_t row = first; row < std::min(first + 16, rows); row++)
        to[pair * rows + row] = from[row * (columns / 2) + pair];
}

void transpose(
    const BFloat16* in, int64_t rows, int64_t columns, int64_t stride, BFloat16* out,
    int64_t out_stride) {
  constexpr int64_t TILE = 32;
  auto from = reinterpret_cast<const uint16_t*>(in);
  auto to = reinterpret_cast<uint16_t*>(out);
  for (int64_t row = 0; row < rows; row += TILE)
    for (int64_t column = 0; column < columns; column += TILE)
      for (int64_t c = column; c < std::min(column + TILE, columns); c++)
        for (int64_t r = row; r < std::min(row + TILE, rows); r++)
          to[c * out_stride + r] = from[r * stride + c];
}

// Turns the scores of one query into unnormalised shares, and what it has taken so far to their
// scale. Returns by what that is multiplied.
float take(
    const float* scores, int64_t seen, int64_t padded, float scale, BFloat16* shares, float& top,
    float& total) {
  Lanes tops(-INFINITY);
  int64_t at = 0;
  for (; at + LANES <= seen; at += LANES) tops = at::vec::maximum(tops, Lanes::loadu(scores + at));
  float here = highest(tops);
  for (; at < seen; at++) here = std::max(here, scores[at]);
  const float now = std::max(top, here * scale), before = std::exp(top - now);
  const Lanes scales(scale), shift(-now);
  Lanes totals(0.f);
  for (at = 0; at + PAIR <= seen; at += PAIR) {
    Lanes one = at::vec::fmadd(Lanes::loadu(scores + at), scales, shift).exp_u20();
    Lanes two = at::vec::fmadd(Lanes::loadu(scores + at + LANES), scales, shift).exp_u20();
    totals = totals + one + two;
    at::vec::convert_float_bfloat16(one, two).store(shares + at);
  }
  float here_total = sum(totals);
  for (; at < seen; at++) {
    const float share = std::exp(scores[at] * scale - now);
    here_total += share;
    shares[at] = share;
  }
  std::fill(shares + at, shares + padded, BFloat16(0));
  top = now;
  total = total * before + here_total;
  return before;
}

std::tuple<Tensor, Tensor> forward(
    const Tensor& q_BNLK, const Tensor& k_BNLK, const Tensor& v_BNLK, double scale) {
  const Tensor q = q_BNLK.contiguous(), k = k_BNLK.contiguous(), v = v_BNLK.contiguous();
  const int64_t heads = q.size(0) * q.size(1), places = q.size(2), width = q.size(3);
  Tensor mixed = at::empty_like(q);
  Tensor log_sums = at::empty({q.size(0), q.size(1), places}, q.options().dtype(at::kFloat));
  auto queries = q.data_ptr<BFloat16>(), keys = k.data_ptr<BFloat16>();
  auto values = v.data_ptr<BFloat16>(), out = mixed.data_ptr<BFloat16>();
  auto out_sums = log_sums.data_ptr<float>();
  at::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<BFloat16> keys_t(places * width), pairs(even(places) * width);
    std::vector<BFloat16> shares(QUERIES * KEYS);
    std::vector<float> scores(QUERIES * KEYS), taken(QUERIES * width);
    std::vector<float> top(QUERIES), total(QUERIES);
    for (int64_t head = begin; head < end; head++) {
      const int64_t start = head * places;
      for (int64_t j = 0; j < places; j += KEYS)
        interleave_transposed(
            keys + (start + j) * width, std::min(KEYS, places - j), width,
            keys_t.data() + j * width);
      interleave(values + start * width, places, width, width, pairs.data());
      for (int64_t i = 0; i < places; i += QUERIES) {
        const int64_t rows = std::min(QUERIES, places - i);
        std::fill(top.begin(), top.end(), -INFINITY);
        std::fill(total.begin(), total.end(), 0.f);
        std::fill(taken.begin(), taken.end(), 0.f);
        for (int64_t j = 0; j < i + rows; j += KEYS) {
          const int64_t columns = std::min(KEYS, places - j);
          const int64_t padded = even(std::min(columns, i + rows - j));
          brgemm(
              rows, columns, width, width, columns, KEYS, false,
              queries + (start + i) * width, keys_t.data() + j * width, scores.data(), true);
          for (int64_t row = 0; row < rows; row++) {
            auto mine = shares.data() + row * KEYS;
            const int64_t seen = std::min(columns, i + row + 1 - j);
            if (seen <= 0) {
              std::fill(mine, mine + padded, BFloat16(0));
              continue;
            }
            const float before = take(
                scores.data() + row * KEYS, seen, padded, scale, mine, top[row], total[row]);
            if (before == 1.f) continue;
            auto old = taken.data() + row * width;
            for (int64_t c = 0; c < width; c += LANES)
              (Lanes::loadu(old + c) * Lanes(before)).store(old + c);
          }
          brgemm(
              rows, width, padded, KEYS, width, width, true, shares.data(),
              pairs.data() + j * width, taken.data(), true);
        }
        for (int64_t row = 0; row < rows; row++) {
          auto mine = taken.data() + row * width;
          for (int64_t c = 0; c < width; c += LANES)
            (Lanes::loadu(mine + c) / Lanes(total[row])).store(mine + c);
          round_to(out + (start + i + row) * width, mine, width);
          out_sums[start + i + row] = top[row] + std::log(total[row]);
        }
      }
    }
    at::native::cpublas::brgemm_release();
  });
  return {mixed, log_sums};
}

// Turns a key's scores with some queries into its shares of them, and the slopes by its shares into
// those by its scores. The first `unseen` queries come before the key.
void slopes_of(
    const float* scores, const float* by_share, const float* log_sums, const float* means,
    int64_t unseen, int64_t count, float scale, BFloat16* shares, BFloat16* by_score) {
  const Lanes scales(scale);
  int64_t at = std::min(count, unseen / PAIR * PAIR);
  std::fill(shares, shares + at, BFloat16(0));
  std::fill(by_score, by_score + at, BFloat16(0));
  for (; at + PAIR <= count; at += PAIR) {
    Lanes share[2], slope[2];
    for (int half = 0; half < 2; half++) {
      const int64_t here = at + half * LANES;
      share[half] =
          at::vec::fmsub(Lanes::loadu(scores + here), scales, Lanes::loadu(log_sums + here))
              .exp_u20();
      slope[half] =
          share[half] * (Lanes::loadu(by_share + here) - Lanes::loadu(means + here)) * scales;
    }
    at::vec::convert_float_bfloat16(share[0], share[1]).store(shares + at);
    at::vec::convert_float_bfloat16(slope[0], slope[1]).store(by_score + at);
  }
  for (; at < count; at++) {
    const float share = std::exp(scores[at] * scale - log_sums[at]);
    shares[at] = share;
    by_score[at] = share * (by_share[at] - means[at]) * scale;
  }
  std::fill(shares + count, shares + even(count), BFloat16(0));
  std::fill(by_score + count, by_score + even(count), BFloat16(0));
  for (at = unseen / PAIR * PAIR; at < std::min(unseen, count); at++)
    shares[at] = by_score[at] = BFloat16(0);
}

// Each query's mean slope under its shares: the softmax passes on only what differs from it.
float mean_slope(const BFloat16* slope, const BFloat16* mixed, int64_t width) {
  Lanes total(0.f);
  for (int64_t c = 0; c < width; c += PAIR) {
    auto [x, y] = at::vec::convert_bfloat16_float(HalfLanes::loadu(slope + c));
    auto [u, v] = at::vec::convert_bfloat16_float(HalfLanes::loadu(mixed + c));
    total = at::vec::fmadd(x, u, at::vec::fmadd(y, v, total));
  }
  return sum(total);
}

std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& slope_BNLK, const Tensor& q_BNLK, const Tensor& k_BNLK, const Tensor& v_BNLK,
    const Tensor& mixed_BNLK, const Tensor& log_sums_BNL, double scale) {
  const Tensor q = q_BNLK.contiguous(), k = k_BNLK.contiguous(), v = v_BNLK.contiguous();
  const Tensor slope = slope_BNLK.contiguous(), mixed = mixed_BNLK.contiguous();
  const int64_t heads = q.size(0) * q.size(1), places = q.size(2), width = q.size(3);
  const int64_t room = (places + BACK_QUERIES - 1) / BACK_QUERIES * BACK_QUERIES;
  Tensor by_q = at::empty_like(q), by_k = at::empty_like(k), by_v = at::empty_like(v);
  auto queries = q.data_ptr<BFloat16>(), keys = k.data_ptr<BFloat16>();
  auto values = v.data_ptr<BFloat16>(), slopes = slope.data_ptr<BFloat16>();
  auto outputs = mixed.data_ptr<BFloat16>();
  auto to_q = by_q.data_ptr<BFloat16>(), to_k = by_k.data_ptr<BFloat16>();
  auto to_v = by_v.data_ptr<BFloat16>();
  auto all_sums = log_sums_BNL.data_ptr<float>();
  at::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<BFloat16> q_t(room * width), q_pairs(room * width);
    std::vector<BFloat16> slope_t(room * width), slope_pairs(room * width);
    std::vector<BFloat16> keys_t(width * room), rounded(width * room);
    std::vector<BFloat16> shares(BACK_KEYS * BACK_QUERIES), by_score(BACK_KEYS * BACK_QUERIES);
    std::vector<BFloat16> by_score_pairs(BACK_KEYS * BACK_QUERIES);
    std::vector<float> scores(BACK_KEYS * BACK_QUERIES), by_share(BACK_KEYS * BACK_QUERIES);
    std::vector<float> sum_q(width * room), sum_k(BACK_KEYS * width), sum_v(BACK_KEYS * width);
    std::vector<float> means(room);
    for (int64_t head = begin; head < end; head++) {
      const int64_t start = head * places, first = start * width;
      auto log_sums = all_sums + start;
      for (int64_t i = 0; i < places; i += BACK_QUERIES) {
        const int64_t rows = std::min(BACK_QUERIES, places - i), at = first + i * width;
        interleave_transposed(queries + at, rows, width, q_t.data() + i * width);
        interleave_transposed(slopes + at, rows, width, slope_t.data() + i * width);
        interleave(queries + at, rows, width, width, q_pairs.data() + i * width);
        interleave(slopes + at, rows, width, width, slope_pairs.data() + i * width);
      }
      transpose(keys + first, places, width, width, keys_t.data(), room);
      for (int64_t i = 0; i < places; i++)
        means[i] = mean_slope(slopes + first + i * width, outputs + first + i * width, width);
      std::fill(sum_q.begin(), sum_q.end(), 0.f);
      for (int64_t j = 0; j < places; j += BACK_KEYS) {
        const int64_t rows = std::min(BACK_KEYS, places - j);
        std::fill(sum_k.begin(), sum_k.end(), 0.f);
        std::fill(sum_v.begin(), sum_v.end(), 0.f);
        for (int64_t i = j / BACK_QUERIES * BACK_QUERIES; i < places; i += BACK_QUERIES) {
          const int64_t columns = std::min(BACK_QUERIES, places - i), padded = even(columns);
          brgemm(
              rows, columns, width, width, columns, BACK_QUERIES, false,
              keys + first + j * width, q_t.data() + i * width, scores.data(), true);
          brgemm(
              rows, columns, width, width, columns, BACK_QUERIES, false,
              values + first + j * width, slope_t.data() + i * width, by_share.data(), true);
          for (int64_t row = 0; row < rows; row++)
            slopes_of(
                scores.data() + row * BACK_QUERIES, by_share.data() + row * BACK_QUERIES,
                log_sums + i, means.data() + i, std::max<int64_t>(0, j + row - i), columns, scale,
                shares.data() + row * BACK_QUERIES, by_score.data() + row * BACK_QUERIES);
          brgemm(
              rows, width, padded, BACK_QUERIES, width, width, true, shares.data(),
              slope_pairs.data() + i * width, sum_v.data(), true);
          brgemm(
              rows, width, padded, BACK_QUERIES, width, width, true, by_score.data(),
              q_pairs.data() + i * width, sum_k.data(), true);
          // The queries' slopes are summed transposed, so that keys need not be turned each time.
          interleave(by_score.data(), rows, columns, BACK_QUERIES, by_score_pairs.data());
          brgemm(
              width, columns, even(rows), room, columns, room, true, keys_t.data() + j,
              by_score_pairs.data(), sum_q.data() + i, true);
        }
        round_to(to_k + first + j * width, sum_k.data(), rows * width);
        round_to(to_v + first + j * width, sum_v.data(), rows * width);
      }
      round_to(rounded.data(), sum_q.data(), width * room);
      transpose(rounded.data(), width, places, room, to_q + first, width);
    }
    at::native::cpublas::brgemm_release();
  });
  return {by_q, by_k, by_v};
}

}  // namespace

TORCH_LIBRARY(toto_cpu, library) {
  library.def("causal_attention(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor)");
  library.def(
      "causal_attention_backward(Tensor slope, Tensor q, Tensor k, Tensor v, Tensor mixed, "
      "Tensor log_sums, float scale) -> (Tensor, Tensor, Tensor)");
  library.impl("causal_attention", c10::DispatchKey::CPU, &forward);
  library.impl("causal_attention_backward", c10::DispatchKey::CPU, &backward);
}
