// What lies between the matrix products of a decoder in bf16, for processors with AVX512's bf16.
//
// torch.compile would write the same loops with a slower exponential, and take it twice where a
// gate is passed backwards.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <vector>

#include "lanes.h"

namespace toto {
namespace {

using at::Tensor;

constexpr int64_t GRAIN = 16;  // rows that a thread takes at least

// Within 1e-6: one step of Newton's after the processor's estimate costs a third of a division.
Lanes sigmoid(Lanes x) {
  const Lanes below = _mm512_add_ps(all(1.f), exp2(_mm512_mul_ps(x, all(-LOG2_E))));
  const Lanes near = _mm512_rcp14_ps(below);
  return _mm512_mul_ps(near, _mm512_fnmadd_ps(near, below, all(2.f)));
}

// silu(gate) * up of [R 2F], gate before up: [R F].
Tensor gated(const Tensor& gate_up) {
  const Tensor given = gate_up.contiguous();
  const int64_t width = given.size(-1) / 2, rows = given.numel() / (2 * width);
  auto shape = given.sizes().vec();
  shape.back() = width;
  Tensor out = at::empty(shape, given.options());
  auto from = given.data_ptr<BFloat16>(), to = out.data_ptr<BFloat16>();
  at::parallel_for(0, rows, GRAIN, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      auto gates = from + row * 2 * width, ups = gates + width, mine = to + row * width;
      for (int64_t at = 0; at < width; at += LANES) {
        const int64_t count = width - at;
        const Lanes gate = load(gates + at, count, 0.f), up = load(ups + at, count, 0.f);
        store(mine + at, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), up), count);
      }
    }
  });
  return out;
}

Tensor gated_backward(const Tensor& slope_RF, const Tensor& gate_up) {
  const Tensor slope = slope_RF.contiguous(), given = gate_up.contiguous();
  const int64_t width = given.size(-1) / 2, rows = given.numel() / (2 * width);
  Tensor out = at::empty_like(given);
  auto from = given.data_ptr<BFloat16>(), to = out.data_ptr<BFloat16>();
  auto slopes = slope.data_ptr<BFloat16>();
  at::parallel_for(0, rows, GRAIN, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      auto gates = from + row * 2 * width, ups = gates + width;
      auto by_gates = to + row * 2 * width, by_ups = by_gates + width;
      for (int64_t at = 0; at < width; at += LANES) {
        const int64_t count = width - at;
        const Lanes gate = load(gates + at, count, 0.f), up = load(ups + at, count, 0.f);
        const Lanes mine = load(slopes + row * width + at, count, 0.f), share = sigmoid(gate);
        const Lanes silu = _mm512_mul_ps(gate, share);
        // (gate * share)' = share + gate * share * (1 - share)
        const Lanes turn = _mm512_fmadd_ps(silu, _mm512_sub_ps(all(1.f), share), share);
        store(by_gates + at, _mm512_mul_ps(_mm512_mul_ps(mine, up), turn), count);
        store(by_ups + at, _mm512_mul_ps(mine, silu), count);
      }
    }
  });
  return out;
}

// The weighted loss of scores [R V], which become its slopes by them.
Tensor score_slopes(Tensor scores, const Tensor& targets_R, const Tensor& weight_R) {
  TORCH_CHECK(scores.is_contiguous(), "scores lie with gaps");
  const Tensor targets = targets_R.contiguous(), weight = weight_R.contiguous();
  const int64_t rows = scores.size(0), ids = scores.size(1);
  Tensor losses = at::empty({rows}, weight.options());
  auto all_scores = scores.data_ptr<BFloat16>();
  auto right = targets.data_ptr<int64_t>();
  auto weights = weight.data_ptr<float>(), out = losses.data_ptr<float>();
  at::parallel_for(0, rows, GRAIN, [&](int64_t begin, int64_t end) {
    std::vector<float> shares((ids + LANES - 1) / LANES * LANES);
    for (int64_t row = begin; row < end; row++) {
      TORCH_CHECK(0 <= right[row] && right[row] < ids, "id ", right[row], " is none of ", ids);
      auto mine = all_scores + row * ids;
      Lanes tops = all(-INFINITY);
      for (int64_t at = 0; at < ids; at += LANES)
        tops = _mm512_max_ps(tops, load(mine + at, ids - at, -INFINITY));
      const float top = highest(tops) * LOG2_E, score = float(mine[right[row]]) * LOG2_E;
      Lanes totals = all(0.f);
      for (int64_t at = 0; at < ids; at += LANES) {
        const Lanes power = load(mine + at, ids - at, -INFINITY);
        const Lanes share = exp2(_mm512_fmsub_ps(power, all(LOG2_E), all(top)));
        totals = _mm512_add_ps(totals, share);
        store(shares.data() + at, share);
      }
      const float total = sum(totals), factor = weights[row] / total;
      for (int64_t at = 0; at < ids; at += LANES)
        store(mine + at, _mm512_mul_ps(load(shares.data() + at), all(factor)), ids - at);
      mine[right[row]] = shares[right[row]] * factor - weights[row];
      out[row] = weights[row] * (std::log(total) + (top - score) / LOG2_E);
    }
  });
  return losses.sum();
}

// Adds numbers in bf16 to a sum in fp32, without a copy of them in fp32.
void add(Tensor total, const Tensor& part) {
  TORCH_CHECK(total.is_contiguous() && part.is_contiguous(), "a part lies with gaps");
  auto to = total.data_ptr<float>();
  auto from = part.data_ptr<BFloat16>();
  const int64_t size = total.numel();
  at::parallel_for(0, (size + LANES - 1) / LANES, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * LANES; at < std::min(end * LANES, size); at += LANES) {
      const int64_t count = size - at;
      const Lanes more = _mm512_add_ps(load(to + at, count, 0.f), load(from + at, count, 0.f));
      _mm512_mask_storeu_ps(to + at, first(count), more);
    }
  });
}

}  // namespace
}  // namespace toto

TORCH_LIBRARY_FRAGMENT(toto_cpu, library) {
  library.def("gated(Tensor gate_up) -> Tensor");
  library.def("gated_backward(Tensor slope, Tensor gate_up) -> Tensor");
  library.def("score_slopes(Tensor(a!) scores, Tensor targets, Tensor weight) -> Tensor");
  library.def("add(Tensor(a!) total, Tensor part) -> ()");
  library.impl("gated", c10::DispatchKey::CPU, &toto::gated);
  library.impl("gated_backward", c10::DispatchKey::CPU, &toto::gated_backward);
  library.impl("score_slopes", c10::DispatchKey::CPU, &toto::score_slopes);
  library.impl("add", c10::DispatchKey::CPU, &toto::add);
}
