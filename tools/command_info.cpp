// espalier info: what this program is, and which engines could run a mask.
// SPDX-License-Identifier: Apache-2.0
#include "command.hpp"
#include "cost_model.hpp"
#include "mask_flags.hpp"

#include <espalier/core/build_info.hpp>
#include <espalier/io/files.hpp>
#include <espalier/io/tree_files.hpp>
#include <espalier/masks/calibration.hpp>

#include <cmath>
#include <cstdio>
#include <sstream>

namespace espalier::tools {

namespace {

void add_flags(Flags& flags) {
  flags.value("size", "L", "number of rows of a mask without a size of its own");
  flags.value("columns", "c", "columns of the products that engines are listed for (default 1)");
  flags.value("rank", "m", "width of the features (default 0: plain products)");
  flags.value("nodes-output", "T.tsv", "write index, name, parent and length of a tree's nodes");
  flags.optional_value("causal", "top-left", "zero the entries with j > i, after the border");
  flags.value("calibrate", "COSTS.json", "measure this machine's speeds (a few seconds, one thread) for --cost-model");
  add_mask_flags(flags, false);
}

// Far more than any product has; sizes and bytes of a product of so many stay within 64 bits.
constexpr Index kMostColumns = Index{1} << 20;

nlohmann::json optional_number(const std::optional<double>& v) {
  return v ? nlohmann::json(*v) : nlohmann::json(nullptr);
}

nlohmann::json engine_json(const Report& r) {
  nlohmann::json j = {{"name", r.engine},
                      {"reason", r.reason},
                      {"predicted_seconds", r.predicted_seconds},
                      {"flops", r.flops},
                      {"bytes", r.bytes},
                      {"extra_bytes", r.extra_bytes},
                      {"terms", r.terms},
                      {"rounding_estimate", r.rounding_estimate}};
  j["certified_error"] = nullptr;
  if (r.certificate && !r.certificate->estimated) {
    j["certified_error"] = {{"row", optional_number(r.certificate->row)},
                            {"entry", optional_number(r.certificate->entry)},
                            {"pointwise", optional_number(r.certificate->pointwise)},
                            {"norm", optional_number(r.certificate->norm)}};
  }
  return j;
}

// Tabs and line ends in a name would break the table.
std::string table_text(const TreeFile& tree) {
  std::ostringstream out;
  out.precision(17);
  out << "index\tname\tparent\tlength\n";
  for (std::size_t v = 0; v < tree.parent.size(); ++v) {
    std::string name = tree.names.empty() ? std::string() : tree.names[v];
    for (char& c : name) {
      if (c == '\t' || c == '\n' || c == '\r') c = ' ';
    }
    const bool root = tree.parent[v] < 0;
    out << v << '\t' << name << '\t' << tree.parent[v] << '\t' << (root ? 0.0 : tree.weights[v]) << '\n';
  }
  return out.str();
}

// The nodes of a tree file alone: a table of them needs no function of the distance. False where that is not what was asked
// for.
bool describe_tree(Run& run, nlohmann::json& info) {
  const std::string start = "tree:", mask = run.flags.text("mask").value_or("");
  if (!run.flags.given("nodes-output") || run.flags.given("function") || mask.rfind(start, 0) != 0) return false;
  const std::string file = mask.substr(start.size()), nodes = *run.flags.text("nodes-output");
  if (file.empty()) throw FlagError("mask", "a file's name is missing after the colon");
  run.outputs.reserve("nodes-output", nodes);
  const bool array = name_without_gz(file).ends_with(".npy");
  const TreeFile tree = run.inputs.tree("mask", file, "weights", array ? run.flags.text("weights").value_or("") : "");
  run.flags.check_all_used();
  run.outputs.fill(nodes, [table = table_text(tree)](WholeFile& out) { out.write(table); });
  info["mask"] = {{"text", mask}, {"rows", tree.parent.size()}, {"columns", tree.parent.size()}};
  return true;
}

template <class T>
void describe_mask(Run& run, Precision precision, nlohmann::json& info) {
  MaskRequest request;
  const Index size = run.flags.integer("size", 1, kMostSize).value_or(0);
  request.size = {size, size};
  request.describe_only = true;
  request.square = true;
  const auto causal = run.flags.text("causal");
  if (causal && *causal != "top-left")
    throw FlagError("causal", "'" + *causal + "' (expected --causal alone: j > i is zeroed)");
  request.wrapped = causal.has_value();
  if (causal) request.causal_shift = 0;
  Shape shape;
  shape.columns = run.flags.integer("columns", 1, kMostColumns).value_or(1);
  shape.rank = run.flags.integer("rank", 0, kMostColumns).value_or(0);
  const std::string nodes = run.flags.text("nodes-output").value_or("");
  if (!nodes.empty()) run.outputs.reserve("nodes-output", nodes);
  BuiltMask<T> mask = build_mask<T>(run, request);
  run.flags.check_all_used();
  if (causal) make_causal(run, mask, 0);
  if (!nodes.empty()) {
    if (!mask.sources.tree) throw FlagError("nodes-output", mask.text + " has no tree");
    const std::string table = table_text(*mask.sources.tree);
    run.outputs.fill(nodes, [table](WholeFile& file) { file.write(table); });
  }
  const Report chosen = chosen_engine(run, mask, shape);
  nlohmann::json& j = info["mask"];
  j = {{"text", mask.text},
       {"rows", mask.rows()},
       {"columns", mask.cols()},
       {"masks", mask.heads.size()},
       {"parameters", mask.heads[0]->parameters().size()},
       {"entries", mask.heads[0]->entries().kind != EntryKind::none},
       {"type", precision == Precision::single ? "float" : "double"},
       {"tolerance", run.tolerance(precision)},
       {"engine", chosen.engine},
       {"reason", chosen.reason}};
  j["engines"] = nlohmann::json::array();
  for (const Report& r : listed_engines(run, mask, shape)) j["engines"].push_back(engine_json(r));
}

void calibrate_into(Run& run, nlohmann::json& info) {
  const auto path = run.flags.text("calibrate");
  if (!path) return;
  run.outputs.reserve("calibrate", *path);
  const nlohmann::json costs = cost_model_json(calibrated_cost_model(run.context()));
  run.outputs.fill(*path, [text = costs.dump(2) + "\n"](WholeFile& file) { file.write(text); });
  info["cost_model"] = costs;
}

void run_info(Run& run) {
  const BuildInfo build = build_info();
  nlohmann::json info;
  info["version"] = build.version;
  info["instruction_set"] = build.instruction_set;
  info["threads"] = run.context().threads;
  info["licence"] = build.licence;
  for (const auto& part : build.parts) info["parts"][part.name] = part.found ? "found" : "missing";
  info["missing_engines"] = nlohmann::json::array();
  for (const auto& part : build.parts) {
    if (!part.found && !part.engines.empty()) info["missing_engines"].push_back(part.engines);
  }
  info["masks"] = nlohmann::json::array();
  for (const MaskForm& form : mask_forms()) {
    info["masks"].push_back(form.kind + (form.operand.empty() ? "" : ":" + form.operand));
  }
  if (run.flags.given("mask") && !describe_tree(run, info)) {
    if (run.flags.text("type").value_or("float") == "double") {
      describe_mask<double>(run, Precision::twofold, info);
    } else {
      describe_mask<float>(run, Precision::single, info);
    }
  } else if (!run.flags.given("mask")) {
    calibrate_into(run, info);
    run.flags.check_all_used();
  }
  info["warnings"] = run.warnings;
  run.report = info;
  run.finish(info.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

Command info_command() {
  return {"info", "what this program is; with a mask: which engines could run it, and why (JSON)",
          "  espalier info\n"
          "  espalier info --calibrate costs.json\n"
          "  espalier info --mask grid:512x512 --function '1/(1+d)' --columns 64 --rank 64\n"
          "  espalier info --mask tree:taxa.nwk --nodes-output nodes.tsv",
          add_flags, run_info};
}

}  // namespace espalier::tools
