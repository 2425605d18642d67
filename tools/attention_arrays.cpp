// Reads and checks the arrays of an attention command.
// SPDX-License-Identifier: Apache-2.0
#include "attention_arrays.hpp"

namespace espalier::tools {

namespace {

// The last four sizes of an array with 2, 3 or 4 dimensions.
struct Sizes {
  Index batch, heads, rows, last;
};

Sizes sizes_of(const NpyArray& a, const std::string& path) {
  const auto& s = a.shape;
  const std::size_t n = s.size();
  if (n < 2 || n > 4) {
    throw FormatError(path, 0, "shape " + shape_text(s) + " (expected [L, d], [H, L, d] or [B, H, L, d])");
  }
  return {n == 4 ? s[0] : 1, n >= 3 ? s[n - 3] : 1, s[n - 2], s[n - 1]};
}

[[noreturn]] void mismatch(const std::string& path, Index got, const std::string& what, Index expected, const std::string& of) {
  throw ValueError(path + ": " + std::to_string(got) + " " + what + " (expected " + std::to_string(expected) + " as " + of +
                   " has)");
}

}  // namespace

std::vector<Index> AttentionShape::array_shape(Index heads_here, Index rows, Index last) const {
  std::vector<Index> shape;
  if (dimensions == 4) shape.push_back(batch);
  if (dimensions >= 3) shape.push_back(heads_here);
  shape.push_back(rows);
  if (last >= 0) shape.push_back(last);
  return shape;
}

void add_attention_array_flags(Flags& flags, bool with_values) {
  flags.value("query", "Q.npy", "[L, d], [H, L, d] or [B, H, L, d]");
  flags.value("key", "K.npy", "the same; its heads may be fewer when Q's are a multiple");
  if (with_values) flags.value("value", "V.npy", "the same, with as many rows and heads as K");
  flags.optional_value("causal", "same", "pairs j > i take no part; where Lq differs from Lk say =top-left or =bottom-right");
  flags.value("key-count", "N.npy", "[B]: keys from this number on take no part");
  flags.later("layout", "it comes with the adoption issue");
  flags.later("offsets", "it comes with the adoption issue");
  flags.later("window", "it comes with the adoption issue");
}

AttentionFiles read_attention_files(Run& run, bool with_values) {
  AttentionFiles f;
  f.q_path = run.flags.required("query", "Q.npy");
  f.k_path = run.flags.required("key", "K.npy");
  if (with_values) f.v_path = run.flags.required("value", "V.npy");
  f.q = run.inputs.floats("query", f.q_path);
  f.k = run.inputs.floats("key", f.k_path);
  const Sizes q = sizes_of(f.q, f.q_path), k = sizes_of(f.k, f.k_path);
  const auto same_dimensions = [&](const NpyArray& a, const std::string& path) {
    if (a.shape.size() != f.q.shape.size()) {
      throw ValueError(path + ": shape " + shape_text(a.shape) + " (expected " + std::to_string(f.q.shape.size()) +
                       " dimensions as " + f.q_path + " with " + shape_text(f.q.shape) + ")");
    }
  };
  same_dimensions(f.k, f.k_path);
  if (k.batch != q.batch) mismatch(f.k_path, k.batch, "batch entries", q.batch, f.q_path);
  if (k.last != q.last) mismatch(f.k_path, k.last, "columns", q.last, f.q_path);
  if (q.heads > 0 && (k.heads < 1 || q.heads % k.heads != 0)) {
    throw ValueError(f.k_path + ": " + std::to_string(k.heads) + " heads (expected a divisor of the " +
                     std::to_string(q.heads) + " of " + f.q_path + ")");
  }
  f.shape = {q.batch, q.heads, k.heads, q.rows, k.rows, q.last, 0, f.q.shape.size()};
  if (!with_values) return f;
  f.v = run.inputs.floats("value", f.v_path);
  same_dimensions(f.v, f.v_path);
  const Sizes v = sizes_of(f.v, f.v_path);
  if (v.batch != k.batch) mismatch(f.v_path, v.batch, "batch entries", k.batch, f.k_path);
  if (v.heads != k.heads) mismatch(f.v_path, v.heads, "heads", k.heads, f.k_path);
  if (v.rows != k.rows) mismatch(f.v_path, v.rows, "rows", k.rows, f.k_path);
  f.shape.values = v.last;
  return f;
}

Causal causal_flag(Run& run, const AttentionShape& s, const AttentionFiles& files) {
  const auto text = run.flags.text("causal");
  if (!text) return Causal::none;
  if (*text == "top-left") return Causal::top_left;
  if (*text == "bottom-right") return Causal::bottom_right;
  if (*text != "same" && *text != "true") throw FlagError("causal", "'" + *text + "' (expected top-left or bottom-right)");
  if (s.queries != s.keys) {
    throw FlagError("causal", files.q_path + " has " + std::to_string(s.queries) + " rows, " + files.k_path + " " +
                                  std::to_string(s.keys) + ": say the alignment (expected --causal=top-left or " +
                                  "--causal=bottom-right)");
  }
  return Causal::top_left;
}

std::vector<std::int64_t> key_count_flag(Run& run, const AttentionShape& s) {
  const auto path = run.flags.text("key-count");
  if (!path) return {};
  const NpyArray a = run.inputs.array("key-count", *path);
  if (!a.is_integer()) throw FormatError(*path, 0, "counts of type " + name_of(a.type) + " (expected int32 or int64)");
  if (a.shape.size() != 1 || a.shape[0] != s.batch) {
    throw FormatError(*path, 0,
                      "shape " + shape_text(a.shape) + " (expected [" + std::to_string(s.batch) + "], a count a batch entry)");
  }
  std::vector<std::int64_t> counts = convert<std::int64_t>(a);
  for (const std::int64_t n : counts) {
    if (n < 0 || n > s.keys) {
      throw FormatError(*path, 0,
                        "count " + std::to_string(n) + " (expected 0 .. " + std::to_string(s.keys) + ", the number of keys)");
    }
  }
  return counts;
}

}  // namespace espalier::tools
