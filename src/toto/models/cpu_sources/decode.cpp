// A LLaMA's next tokens, for processors with AVX512's bf16 products: all blocks in one call.
//
// Such a step reads every weight once and computes little with it, so memory decides. Weights lie
// packed in the order in which they are read, one run through memory a step; bf16, or int8 with a
// scale a row that becomes bf16 in registers. Several rows, tokens of one sequence or of several,
// share that run: eight cost little more than one. Keys and values lie in the cache as weights do,
// keys as a matrix that gives a score a position, values as one that mixes positions, so that one
// product serves all. Many rows at once, a prompt, take the same path from the core's cache.
//
// Packed [O I]: blocks of 32 outputs, in each the pairs of inputs in order, of each pair the 32
// outputs: [O/32 I/2 32 2]. Angles [L K] turn the halves of a head, as `rotate` in rope.py does.
//
// A row's sums are added in one order however many rows there are beside it, so that a token alone,
// in a batch, in a prompt or tried as a guess has the same scores to the bit.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.h"

namespace toto {
namespace {

using at::Tensor;

constexpr int64_t PAIR = 2, VECTOR = PAIR * LANES;  // numbers of one product
constexpr int64_t BLOCK = 2 * LANES;  // outputs that are summed at once, in two registers a row
constexpr int64_t MOST_ROWS = 8;  // that share a weight in registers
constexpr int64_t AHEAD_BYTES = 4096;  // what is asked of memory before its turn

int64_t up_to(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

__m512bh pairs(const BFloat16* from) { return __m512bh(_mm512_loadu_si512(from)); }

// Whole numbers to 127 are exact in bf16.
__m512bh pairs(const int8_t* from) {
  const auto bytes = reinterpret_cast<const __m128i*>(from);
  const Lanes lower = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes)));
  const Lanes upper = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes + 1)));
  return _mm512_cvtne2ps_pbh(upper, lower);
}

// The outputs of a block for some rows.
template <int ROWS, typename Weight, typename Put>
void products(const Weight* weights, int64_t count, const BFloat16* x, int64_t stride, Put&& put) {
  Lanes lower[ROWS], upper[ROWS];
  for (int row = 0; row < ROWS; row++) lower[row] = upper[row] = all(0.f);
  for (int64_t pair = 0; pair < count; pair++, weights += PAIR * BLOCK) {
    const auto ahead = reinterpret_cast<const char*>(weights) + AHEAD_BYTES;
    _mm_prefetch(ahead, _MM_HINT_T0);
    if constexpr (sizeof(Weight) > 1) _mm_prefetch(ahead + 64, _MM_HINT_T0);
    const __m512bh some = pairs(weights), others = pairs(weights + VECTOR);
    for (int row = 0; row < ROWS; row++) {
      const auto both = reinterpret_cast<const int32_t*>(x + row * stride)[pair];
      const __m512bh input = __m512bh(_mm512_set1_epi32(both));
      lower[row] = _mm512_dpbf16_ps(lower[row], some, input);
      upper[row] = _mm512_dpbf16_ps(upper[row], others, input);
    }
  }
  for (int row = 0; row < ROWS; row++) put(row, 0, lower[row]), put(row, LANES, upper[row]);
}

// As many rows at a time as there are registers for.
template <typename Take>
void by_rows(int64_t rows, Take&& take) {
  for (int64_t row = 0; row < rows; row += MOST_ROWS) switch (std::min(MOST_ROWS, rows - row)) {
      case 1: take.template operator()<1>(row); break;
      case 2: take.template operator()<2>(row); break;
      case 3: take.template operator()<3>(row); break;
      case 4: take.template operator()<4>(row); break;
      case 5: take.template operator()<5>(row); break;
      case 6: take.template operator()<6>(row); break;
      case 7: take.template operator()<7>(row); break;
      default: take.template operator()<8>(row);
    }
}

// Reads packed matrices one behind the other.
template <typename Weight>
struct Matrices {
  const Weight* next;
  const float* scale;  // of the next row; nothing with bf16

  // Writes x [rows I] times the next matrix to out [rows O], or adds it to what is there.
  void multiply(
      const BFloat16* x, int64_t rows, int64_t inputs, int64_t outputs, float* out, bool add) {
    const auto weights = next;
    const auto scales = scale;
    at::parallel_for(0, up_to(outputs, BLOCK) / BLOCK, 2, [&](int64_t begin, int64_t end) {
      for (int64_t output = begin * BLOCK; output < end * BLOCK; output += BLOCK)
        by_rows(rows, [&]<int ROWS>(int64_t row) {
          products<ROWS>(
              weights + output * inputs, inputs / PAIR, x + row * inputs, inputs,
              [&](int64_t r, int64_t half, Lanes sums) {
                auto to = out + (row + r) * outputs + output + half;
                const __mmask16 there = first(outputs - output - half);
                const Lanes factor = scales ? load(scales + output + half) : all(1.f);
                const Lanes before = add ? _mm512_maskz_loadu_ps(there, to) : all(0.f);
                _mm512_mask_storeu_ps(to, there, _mm512_fmadd_ps(sums, factor, before));
              });
        });
    });
    next += up_to(outputs, BLOCK) * inputs;
    if (scale) scale += up_to(outputs, BLOCK);
  }
};

// Every row divided by its root mean square, and multiplied channel by channel.
void normalise(
    const float* x, const float* gain, int64_t rows, int64_t width, float eps, BFloat16* out) {
  for (int64_t row = 0; row < rows; row++, x += width, out += width) {
    Lanes squares = all(0.f);
    for (int64_t c = 0; c < width; c += LANES) {
      const Lanes part = load(x + c);
      squares = _mm512_fmadd_ps(part, part, squares);
    }
    const Lanes factor = all(1 / std::sqrt(sum(squares) / width + eps));
    for (int64_t c = 0; c < width; c += LANES)
      store(out + c, _mm512_mul_ps(_mm512_mul_ps(load(x + c), factor), load(gain + c)));
  }
}

// silu(gate) * up.
void gate(const float* gate_up, int64_t rows, int64_t width, BFloat16* out) {
  for (int64_t row = 0; row < rows; row++, gate_up += 2 * width, out += width)
    for (int64_t c = 0; c < width; c += LANES) {
      const Lanes gate = load(gate_up + c);
      const Lanes below = _mm512_add_ps(all(1.f), exp2(_mm512_mul_ps(gate, all(-LOG2_E))));
      store(out + c, _mm512_mul_ps(_mm512_div_ps(gate, below), load(gate_up + width + c)));
    }
}

// One head's keys and values of one sequence.
struct Head {
  BFloat16 *keys, *values;
  int64_t width, room;

  void write(int64_t position, const BFloat16* key, const BFloat16* value) const {
    auto to = keys + position / BLOCK * BLOCK * width + position % BLOCK * PAIR;
    for (int64_t c = 0; c < width; c += PAIR, to += PAIR * BLOCK)
      to[0] = key[c], to[1] = key[c + 1];
    to = values + position / PAIR * PAIR * BLOCK + position % PAIR;
    for (int64_t c = 0; c < width; c++) to[c / BLOCK * BLOCK * room + c % BLOCK * PAIR] = value[c];
  }
};

// Turns the scores of the positions seen into unnormalised shares, and the others into 0.
float share(const float* scores, int64_t seen, int64_t padded, float scale, BFloat16* shares) {
  Lanes tops = all(-INFINITY), totals = all(0.f);
  for (int64_t at = 0; at < seen; at += LANES)
    tops = _mm512_max_ps(tops, load(scores + at, seen - at, -INFINITY));
  const float top = highest(tops) * scale;
  for (int64_t at = 0; at < padded; at += LANES) {
    const Lanes score = load(scores + at, seen - at, -INFINITY);
    const Lanes part = exp2(_mm512_fmsub_ps(score, all(scale), all(top)));
    totals = _mm512_add_ps(totals, part);
    store(shares + at, part);
  }
  return sum(totals);
}

// Lets new queries [rows stride] look at what came before each, and at themselves.
void attend(
    const Head& head, const BFloat16* q, int64_t start, int64_t rows, int64_t stride, float scale,
    BFloat16* out) {
  const int64_t places = up_to(start + rows, BLOCK);
  std::vector<float> scores(std::min(rows, MOST_ROWS) * places);
  std::vector<BFloat16> shares(scores.size());
  by_rows(rows, [&]<int ROWS>(int64_t row) {
    const int64_t reached = start + row + ROWS;
    for (int64_t at = 0; at < reached; at += BLOCK)
      products<ROWS>(
          head.keys + at * head.width, head.width / PAIR, q + row * stride, stride,
          [&](int64_t r, int64_t half, Lanes sums) {
            store(scores.data() + r * places + at + half, sums);
          });
    float totals[ROWS];
    for (int64_t r = 0; r < ROWS; r++)
      totals[r] = share(
          scores.data() + r * places, start + row + r + 1, up_to(reached, LANES), scale,
          shares.data() + r * places);
    for (int64_t c = 0; c < head.width; c += BLOCK)
      products<ROWS>(
          head.values + c * head.room, up_to(reached, PAIR) / PAIR, shares.data(), places,
          [&](int64_t r, int64_t half, Lanes sums) {
            store(out + (row + r) * stride + c + half, _mm512_div_ps(sums, all(totals[r])));
          });
  });
}

// Turns the halves of a head's numbers by a position's angles.
void turn(const float* from, const float* cos, const float* sin, int64_t width, BFloat16* out) {
  const int64_t half = width / 2;
  for (int64_t c = 0; c < half; c++) {
    const float x = from[c], y = from[half + c];
    out[c] = x * cos[c] - y * sin[c];
    out[half + c] = y * cos[c] + x * sin[c];
  }
}

template <typename Weight>
Tensor read(
    Tensor& stream, Matrices<Weight> matrices, const Tensor& gains, const Tensor& cos,
    const Tensor& sin, Tensor& keys, Tensor& values, int64_t start, int64_t mlp_width,
    int64_t outputs, float scale, float eps, int64_t scored) {
  const int64_t layers = keys.size(0), sequences = keys.size(1), heads = keys.size(2);
  const int64_t room = keys.size(3) * BLOCK, width = keys.size(4) * PAIR;
  const int64_t news = stream.size(1), rows = sequences * news, all_width = stream.size(2);
  const auto x = stream.data_ptr<float>();
  const auto gain = gains.data_ptr<float>();
  const auto cosines = cos.data_ptr<float>(), sines = sin.data_ptr<float>();
  const auto all_keys = keys.data_ptr<BFloat16>(), all_values = values.data_ptr<BFloat16>();
  std::vector<BFloat16> normal(rows * all_width), q(rows * all_width), mixed(rows * all_width);
  std::vector<BFloat16> gated(rows * mlp_width);
  std::vector<float> qkv(rows * 3 * all_width), gate_up(rows * 2 * mlp_width);
  for (int64_t layer = 0; layer < layers; layer++) {
    normalise(x, gain + 2 * layer * all_width, rows, all_width, eps, normal.data());
    matrices.multiply(normal.data(), rows, all_width, 3 * all_width, qkv.data(), false);
    at::parallel_for(0, sequences * heads, 4, [&](int64_t begin, int64_t end) {
      std::vector<BFloat16> key(width), value(width);
      for (int64_t number = begin; number < end; number++) {
        const int64_t place = (layer * sequences * heads + number) * room * width;
        const Head head{all_keys + place, all_values + place, width, room};
        const int64_t row = number / heads * news, column = number % heads * width;
        for (int64_t at = 0; at < news; at++) {
          const auto from = qkv.data() + (row + at) * 3 * all_width + column;
          const auto c = cosines + (start + at) * width, s = sines + (start + at) * width;
          turn(from, c, s, width, q.data() + (row + at) * all_width + column);
          turn(from + all_width, c, s, width, key.data());
          std::copy_n(from + 2 * all_width, width, value.data());
          head.write(start + at, key.data(), value.data());
        }
        const int64_t first_query = row * all_width + column;
        attend(head, q.data() + first_query, start, news, all_width, scale * LOG2_E,
               mixed.data() + first_query);
      }
    });
    matrices.multiply(mixed.data(), rows, all_width, all_width, x, true);
    normalise(x, gain + (2 * layer + 1) * all_width, rows, all_width, eps, normal.data());
    matrices.multiply(normal.data(), rows, all_width, 2 * mlp_width, gate_up.data(), false);
    gate(gate_up.data(), rows, mlp_width, gated.data());
    matrices.multiply(gated.data(), rows, mlp_width, all_width, x, true);
  }
  Tensor logits = at::empty({sequences, scored, outputs}, stream.options());
  for (int64_t sequence = 0; sequence < sequences; sequence++)
    normalise(
        x + ((sequence + 1) * news - scored) * all_width, gain + 2 * layers * all_width, scored,
        all_width, eps, normal.data() + sequence * scored * all_width);
  matrices.multiply(
      normal.data(), sequences * scored, all_width, outputs, logits.data_ptr<float>(), false);
  return logits;
}

// Fresh memory in large pages: a run through all weights in small ones looks up an address every 64
// lines, and what torch gives may have been used in small ones before.
Tensor large_pages(int64_t bytes) {
  constexpr int64_t PAGE = 1 << 21;
  const int64_t room = up_to(bytes, PAGE) + PAGE;
  void* begin = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK(begin != MAP_FAILED, "no memory for ", bytes, " bytes");
  // Where the kernel has no large pages, small ones do.
  madvise(begin, room, MADV_HUGEPAGE);
  const auto from = reinterpret_cast<void*>(up_to(int64_t(begin), PAGE));
  return at::from_blob(from, {bytes}, [=](void*) { munmap(begin, room); }, at::kByte);
}

// Reads the next tokens of some sequences, whose embeddings `stream` [B L D] becomes what the last
// block gives; scores those after the last `scored` of them.
Tensor read_tokens(
    Tensor stream, const Tensor& weights, const Tensor& scales, const Tensor& gains,
    const Tensor& cos, const Tensor& sin, Tensor keys, Tensor values, int64_t start,
    int64_t mlp_width, int64_t outputs, double scale, double eps, int64_t scored) {
  TORCH_CHECK(stream.is_contiguous() && keys.is_contiguous() && values.is_contiguous(), "gaps");
  TORCH_CHECK(start + stream.size(1) <= cos.size(0), "no room for ", stream.size(1), " tokens");
  const auto go = [&]<typename Weight>(const float* scales) {
    return read<Weight>(
        stream, {weights.data_ptr<Weight>(), scales}, gains, cos, sin, keys, values, start,
        mlp_width, outputs, scale, eps, scored);
  };
  return weights.scalar_type() == at::kChar
      ? go.template operator()<int8_t>(scales.data_ptr<float>())
      : go.template operator()<BFloat16>(nullptr);
}

}  // namespace
}  // namespace toto

TORCH_LIBRARY_FRAGMENT(toto_decode, library) {
  library.def(
      "read_tokens(Tensor(a!) stream, Tensor weights, Tensor scales, Tensor gains, Tensor cos, "
      "Tensor sin, Tensor(b!) keys, Tensor(c!) values, int start, int mlp_width, int outputs, "
      "float scale, float eps, int scored) -> Tensor");
  library.def("large_pages(int bytes) -> Tensor", &toto::large_pages);
  library.impl("read_tokens", c10::DispatchKey::CPU, &toto::read_tokens);
}
