// How fast one core reads memory: nothing is computed but what keeps the compiler from leaving the
// reads out.

#include <ATen/ATen.h>
#include <immintrin.h>
#include <torch/library.h>

#include <cstdint>

namespace {

int64_t read_memory(const at::Tensor& bytes) {
  const auto from = static_cast<const char*>(bytes.data_ptr());
  constexpr int64_t LINE = 64, PARTS = 4;
  __m512i seen[PARTS] = {};
  for (int64_t at = 0; at + LINE * PARTS <= int64_t(bytes.nbytes()); at += LINE * PARTS)
    for (int64_t part = 0; part < PARTS; part++) {
      _mm_prefetch(from + at + part * LINE + 4096, _MM_HINT_T0);
      seen[part] = _mm512_xor_si512(seen[part], _mm512_loadu_si512(from + at + part * LINE));
    }
  for (int64_t part = 1; part < PARTS; part++) seen[0] = _mm512_xor_si512(seen[0], seen[part]);
  return _mm512_reduce_add_epi64(seen[0]);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(toto_bench, library) {
  library.def("read_memory(Tensor bytes) -> int");
  library.impl("read_memory", c10::DispatchKey::CPU, &read_memory);
}
