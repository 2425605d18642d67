// espalier attend: masked linear, softmax and top-k attention with their gradients.
// SPDX-License-Identifier: Apache-2.0
#include "attention_run.hpp"
#include "command.hpp"

namespace espalier::tools {

namespace {

void add_flags(Flags& flags) {
  flags.value("attention", "A", "linear, softmax or top-k");
  add_attention_array_flags(flags, true);
  flags.value("output", "O.npy", "the attention's output, of the shape of Q with V's columns");
  flags.value("feature-map", "F", "linear: identity, relu, elu, squared, exp or positive-softmax");
  flags.value("feature-epsilon", "e", "linear: added to every feature (default 0)");
  flags.value("weight-epsilon", "e", "linear: added to every M_ij (phi(q_i) . phi(k_j)) (default 0)");
  flags.toggle("unnormalized", "linear: the numerator only");
  flags.value("scale", "s", "factor of the inner products (default 1/sqrt(d)); linear: positive-softmax only");
  flags.value("features", "m", "positive-softmax: number of random features (default 256)");
  flags.value("projection", "W.npy", "positive-softmax: the random rows, [m, d]");
  flags.value("orthogonal", "on|off", "positive-softmax: random rows in orthogonal blocks (default on)");
  flags.value("k", "K", "top-k: keys a query");
  flags.value("normalizer", "D.npy", "linear: write the denominators");
  flags.value("log-sum-exp", "E.npy", "softmax: write log of the sum of the weights");
  flags.value("indices", "I.npy", "top-k: write the selected keys, int64, -1 where there is none");
  flags.value("scores", "S.npy", "top-k: write their inner products, unscaled");
  const std::string group = "Gradients of sum(G * O)";
  flags.value("output-gradient", "G.npy", "G, of the shape of O", group);
  flags.value("query-gradient", "FILE", "write the gradient with respect to Q", group);
  flags.value("key-gradient", "FILE", "write the gradient with respect to K", group);
  flags.value("value-gradient", "FILE", "write the gradient with respect to V", group);
  flags.value("table-gradient", "FILE", "write that of the mask's table (the bias's where there is no mask)", group);
  flags.value("bias-table-gradient", "FILE", "write that of the bias's table where there is a mask too", group);
  for (const char* name : {"parameter-gradient", "time-gradient", "weights-gradient", "border-gradient", "weights-of"}) {
    flags.later(name, "it comes with the adoption issue");
  }
  add_mask_flags(flags, true);
}

AttentionOutputs output_flags(Run& run, const std::string& kind) {
  AttentionOutputs o;
  const auto output = [&](const char* flag, bool allowed, const char* where) {
    const auto path = run.flags.text(flag);
    if (!path) return std::string();
    if (!allowed) throw FlagError(flag, std::string("goes with --attention ") + where);
    run.outputs.reserve(flag, *path);
    return *path;
  };
  (void)run.flags.required("output", "O.npy");
  o.output = output("output", true, "");
  o.normalizer = output("normalizer", kind == "linear", "linear");
  o.log_sum_exp = output("log-sum-exp", kind == "softmax", "softmax");
  o.indices = output("indices", kind == "top-k", "top-k");
  o.scores = output("scores", kind == "top-k", "top-k");
  o.query_gradient = output("query-gradient", true, "");
  o.key_gradient = output("key-gradient", true, "");
  o.value_gradient = output("value-gradient", true, "");
  o.table_gradient = output("table-gradient", true, "");
  o.bias_table_gradient = output("bias-table-gradient", true, "");
  o.output_gradient = run.flags.text("output-gradient").value_or("");
  const std::pair<const char*, std::string> gradients[] = {{"query-gradient", o.query_gradient},
                                                           {"key-gradient", o.key_gradient},
                                                           {"value-gradient", o.value_gradient},
                                                           {"table-gradient", o.table_gradient},
                                                           {"bias-table-gradient", o.bias_table_gradient}};
  bool any = false;
  for (const auto& [flag, path] : gradients) {
    if (path.empty()) continue;
    any = true;
    if (!o.any_gradient()) throw FlagError(flag, "needs --output-gradient G.npy (the gradient is that of sum(G * O))");
  }
  if (o.any_gradient() && !any) {
    throw FlagError("output-gradient",
                    "no gradient is asked for (expected --query-gradient, --key-gradient, "
                    "--value-gradient or --table-gradient)");
  }
  return o;
}

template <class T>
void attend(Run& run, const std::string& kind, AttentionFiles files, AttentionOutputs outputs, Precision precision) {
  AttentionRun<T> attention(run, std::move(files), std::move(outputs), precision);
  if (kind == "linear") {
    attention.linear();
  } else if (kind == "softmax") {
    attention.softmax();
  } else {
    attention.top_k();
  }
}

void run_attend(Run& run) {
  const std::string kind = run.flags.required("attention", "linear, softmax or top-k");
  if (kind == "knn" || kind == "hybrid" || kind == "gkat") {
    throw FlagError("attention", "'" + kind + "' is not available yet (it comes with a later issue)");
  }
  if (kind != "linear" && kind != "softmax" && kind != "top-k") {
    throw FlagError("attention", "'" + kind + "' (expected linear, softmax or top-k)");
  }
  AttentionOutputs outputs = output_flags(run, kind);
  AttentionFiles files = read_attention_files(run, true);
  const Precision precision = run.precision({&files.q, &files.k, &files.v});
  run.report["attention"] = kind;
  if (precision == Precision::single) {
    attend<float>(run, kind, std::move(files), std::move(outputs), precision);
  } else {
    attend<double>(run, kind, std::move(files), std::move(outputs), precision);
  }
}

}  // namespace

Command attend_command() {
  return {"attend", "attention: masked linear, softmax, or over the k nearest keys",
          "  espalier attend --attention linear --feature-map relu --mask grid:14x14 --function 'exp(-0.2*d)' --border 1 \\\n"
          "      --query q.npy --key k.npy --value v.npy --output o.npy\n"
          "  espalier attend --attention softmax --bias grid:4096 --table bias.npy --causal \\\n"
          "      --query q.npy --key k.npy --value v.npy --output o.npy --output-gradient g.npy --table-gradient t.npy\n"
          "  espalier attend --attention top-k --k 32 --query q.npy --key k.npy --value v.npy --output o.npy --indices i.npy",
          add_flags, run_attend};
}

}  // namespace espalier::tools
