// espalier top-k: the k best inner products of every query.
// SPDX-License-Identifier: Apache-2.0
#include "attention_arrays.hpp"
#include "command.hpp"

#include <espalier/attention/top_k.hpp>

#include <cmath>
#include <cstdio>

namespace espalier::tools {

namespace {

void add_flags(Flags& flags) {
  add_attention_array_flags(flags, false);
  flags.value("k", "K", "keys a query");
  flags.value("indices", "I.npy", "[..., Lq, k] int64, descending by score, -1 where there is none");
  flags.value("scores", "S.npy", "their inner products, -inf where there is none");
  flags.toggle("exclude-self", "pairs i = j take no part");
}

template <class T>
void search(Run& run, const AttentionFiles& files, Index count, const std::string& indices_path, const std::string& scores_path,
            Precision precision) {
  const AttentionShape& s = files.shape;
  TopKOptions options;
  options.causal = causal_flag(run, s, files);
  const std::vector<std::int64_t> counts = key_count_flag(run, s);
  options.key_counts = view(counts);
  options.exclude_self = run.flags.on("exclude-self");
  run.flags.check_all_used();
  const Index places = s.batch * s.heads * s.queries;
  if (places > 0 && count > (Index{1} << 40) / places)
    throw FlagError("k", std::to_string(count) + " is far more than can be stored");
  const std::vector<T> q = convert<T>(files.q), k = convert<T>(files.k);
  std::vector<std::int64_t> indices(static_cast<std::size_t>(places * count));
  std::vector<T> scores(indices.size());
  const Context<Cpu> context = run.context();
  run.timed("apply", [&] {
    top_k_search(tensor(q, s.batch, s.heads, s.queries, s.width), tensor(k, s.batch, s.key_heads, s.keys, s.width),
                 tensor(indices, s.batch, s.heads, s.queries, count), tensor(scores, s.batch, s.heads, s.queries, count),
                 options, context);
  });
  Report r;
  r.engine = "direct";
  r.reason = "exact search over every key by tiles";
  r.flops = 2.0 * static_cast<double>(places) * static_cast<double>(s.keys) * static_cast<double>(s.width);
  r.bytes = static_cast<double>(sizeof(T)) * static_cast<double>(q.size() + k.size() + scores.size());
  r.predicted_seconds = r.flops / (CostModel{}.tile_flops * (sizeof(T) == 4 ? 1.0 : 0.5));
  r.rounding_estimate = std::sqrt(static_cast<double>(s.width)) * (sizeof(T) == 4 ? 6e-8 : 1.1e-16);
  r.extra_bytes = top_k_bytes(s.keys, s.width, count, sizeof(T), context.threads);
  run.describe(r, {r}, 1);
  run.report["size"] = s.queries == s.keys ? nlohmann::json(s.queries) : nlohmann::json({s.queries, s.keys});
  run.report["columns"] = count;
  run.report["type"] = precision == Precision::single ? "float" : "double";
  run.report["tolerance"] = run.tolerance(precision);
  const auto shape = s.array_shape(s.heads, s.queries, count);
  if (!indices_path.empty()) run.outputs.fill_npy(indices_path, shape, indices.data());
  if (!scores_path.empty()) run.outputs.fill_npy(scores_path, shape, scores.data());
  char line[200];
  std::snprintf(line, sizeof(line), "direct: L = %td, %td keys a query, %.3g s, exact", s.queries, count,
                run.report["seconds_apply"].get<double>());
  run.finish(line);
}

void run_top_k(Run& run) {
  if (run.engine() != "auto" && run.engine() != "direct") {
    throw FlagError("engine", "'" + run.engine() + "' (expected direct: the search looks at every key)");
  }
  (void)run.flags.required("k", "the number of keys to select");
  const Index count = *run.flags.integer("k", 1);
  const std::string indices = run.flags.text("indices").value_or("");
  const std::string scores = run.flags.text("scores").value_or("");
  if (indices.empty() && scores.empty())
    throw FlagError("indices", "is missing (expected --indices I.npy, --scores S.npy or both)");
  if (!indices.empty()) run.outputs.reserve("indices", indices);
  if (!scores.empty()) run.outputs.reserve("scores", scores);
  const AttentionFiles files = read_attention_files(run, false);
  const Precision precision = run.precision({&files.q, &files.k});
  if (precision == Precision::single) {
    search<float>(run, files, count, indices, scores, precision);
  } else {
    search<double>(run, files, count, indices, scores, precision);
  }
}

}  // namespace

Command top_k_command() {
  return {"top-k", "the k largest inner products of every query",
          "  espalier top-k --query q.npy --key k.npy --k 10 --indices i.npy --scores s.npy\n"
          "  espalier top-k --query x.npy --key x.npy --k 5 --exclude-self --indices i.npy --scores s.npy",
          add_flags, run_top_k};
}

}  // namespace espalier::tools
