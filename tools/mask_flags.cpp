// Answers what a mask's form asks for from flags and files.
// SPDX-License-Identifier: Apache-2.0
#include "mask_flags.hpp"

#include "function_flag.hpp"

#include <espalier/masks/combinators.hpp>

#include <algorithm>
#include <cctype>
#include <cmath>

namespace espalier::tools {

namespace {

// Extra tokens: sizes stay far from the end of Index.
constexpr Index kMostBorder = Index{1} << 40;

const MaskForm& find_form(const std::vector<MaskForm>& forms, const std::string& kind, const std::string& role,
                          const std::string& text) {
  if (kind == "sparse" || kind == "spanning-tree") {
    throw FlagError(role, "'" + shortened(text) + "' is not available yet (it comes with the graph issue)");
  }
  std::string known;
  for (const MaskForm& form : forms) {
    if (form.kind == kind) return form;
    known += (known.empty() ? "" : ", ") + form.kind;
  }
  throw FlagError(role,
                  "'" + shortened(text) + "' is no form of a mask (expected one of " + known + ", then ':' and what it needs)");
}

BorderWeights border_weights(const std::optional<std::string>& text, const std::string& flag, double standard) {
  BorderWeights weights{standard, standard, standard};
  if (!text) return weights;
  std::vector<double> numbers;
  std::size_t at = 0;
  for (;;) {
    const auto comma = text->find(',', at);
    numbers.push_back(number_from(text->substr(at, comma == std::string::npos ? comma : comma - at), flag));
    if (comma == std::string::npos) break;
    at = comma + 1;
  }
  if (numbers.size() != 1 && numbers.size() != 3) {
    throw FlagError(flag, std::to_string(numbers.size()) + " numbers (expected one, or row,column,corner)");
  }
  weights.row = numbers[0];
  weights.column = numbers[numbers.size() == 3 ? 1 : 0];
  weights.corner = numbers[numbers.size() == 3 ? 2 : 0];
  return weights;
}

// One mask's view of the flags.
class FlagArguments final : public FormArguments {
 public:
  // A causal order around a graph's kernel keeps a part of its matrix, and bounds relative to that part come out 10 to some 100
  // times the kernel's: it is made `exactness` times as well, but not beyond what double can show.
  struct Tolerance {
    double standard = 0, exactness = 1;
    double operator()(double wanted) const {
      const double t = wanted < 0 ? standard : wanted;
      return exactness > 1 && t > 1e-14 ? std::max(1e-14, t / exactness) : wanted;
    }
  };
  FlagArguments(Run& run, const MaskRequest& request, std::string operand, Index border, Tolerance tolerance)
      : run_(&run), request_(&request), operand_(std::move(operand)), border_(border), tolerance_(tolerance) {}

  std::string flag_name(const std::string& name) const { return request_->prefixed ? request_->role + "-" + name : name; }
  // Forms name flags without the role: "--distance: ..." may be about --bias-distance.
  std::string with_role(std::string text) const {
    for (auto at = text.find("--"); request_->prefixed && at != std::string::npos; at = text.find("--", at + 2)) {
      const auto first = at + 2;
      const auto end = std::min(text.find_first_not_of("abcdefghijklmnopqrstuvwxyz-", first), text.size());
      const std::string name = text.substr(first, end - first);
      const bool word = at == 0 || text[at - 1] == ' ';  // not in a file's name
      if (word && run_->flags.declared(flag_name(name))) text.replace(first, name.size(), flag_name(name));
    }
    return text;
  }
  // An error of the form.
  [[noreturn]] void refuse(const std::string& text) const {
    if (!text.starts_with("--")) throw FlagError(request_->role, with_role(without_class(text)));
    throw ValueError(with_role(text));
  }

  std::string operand() const override { return operand_; }
  std::pair<Index, Index> size() const override {
    const auto [rows, cols] = request_->size;
    if (rows == 0 && cols == 0) {
      const std::string kind = run_->flags.text(request_->role).value_or("");
      if (request_->size_file.empty())
        throw FlagError("size", "is missing ('" + kind + "' has no size of its own; add --size L)");
      throw FormatError(request_->size_file, 0, "0 rows (expected at least 1, the size of '" + kind + "')");
    }
    return {std::max<Index>(rows - border_, 0), std::max<Index>(cols - border_, 0)};
  }
  std::optional<std::string> text(const std::string& flag) override { return run_->flags.text(flag_name(flag)); }
  std::optional<double> number(const std::string& flag) override { return run_->flags.number(flag_name(flag)); }
  bool flag(const std::string& flag) override { return run_->flags.on(flag_name(flag)); }
  std::optional<DistanceFunction> function() override {
    const auto value = text("function");
    if (!value) return std::nullopt;
    FunctionFlag read = read_function(*run_, *value, flag_name("function"));
    if (!read.table_shape.empty()) sources.table_shape = read.table_shape;
    return std::move(read.f);
  }
  std::optional<FormArray> array_flag(const std::string& flag) override {
    const auto path = text(flag);
    if (!path) return std::nullopt;
    FormArray array = floats(flag_name(flag), *path, false);
    // The one array flag whose values a gradient flag asks for by name.
    if (flag == "table") sources.table_shape = array.shape, sources.table_file = *path;
    return array;
  }
  FormArray array_file(const std::string& file) override {
    check_named(file);
    FormArray array = floats(request_->role, file, true);
    sources.matrices.emplace_back(file, array.shape);
    return array;
  }
  std::shared_ptr<const Tree> tree_file(const std::string& file) override {
    check_named(file);
    const bool array = name_without_gz(file).ends_with(".npy");
    const std::string weights = array ? text("weights").value_or("") : "";
    sources.tree = run_->inputs.tree(request_->role, file, flag_name("weights"), weights);
    return std::make_shared<const Tree>(sources.tree->parent, sources.tree->weights);
  }
  std::shared_ptr<const Graph> graph_file(const std::string& file) override {
    check_named(file);
    if (name_without_gz(file).ends_with(".npy")) {
      throw FlagError(request_->role,
                      file + ": graphs in .npy files are not available yet (they come with the adoption issue)");
    }
    const auto nodes = run_->flags.integer(flag_name("nodes"), 0);
    try {
      sources.graph = run_->inputs.graph(request_->role, file, nodes.value_or(-1));
    } catch (const FlagError&) {
      throw;
    } catch (const ValueError& error) {
      throw FlagError(flag_name("nodes"), error.what());
    }
    for (const auto& warning : sources.graph->warnings) run_->warnings.push_back(warning);
    return std::make_shared<const Graph>(sources.graph->nodes, sources.graph->edges);
  }
  void require_weights_not_negative(const std::string& file, const std::string& why) override {
    const GraphFile& graph = *sources.graph;
    if (graph.negative_line == 0) return;
    throw FormatError(file, graph.negative_line,
                      "the edge between " + std::to_string(graph.negative.u) + " and " + std::to_string(graph.negative.v) +
                          " (0-based) has the weight " + number_text(graph.negative.weight) + " (" + with_role(why) + ")");
  }
  MaskOptions mask_options() override {
    MaskOptions options = request_->options.value_or(run_->mask_options());
    if (request_->engines) {
      options.engine = request_->engines->inner;
    } else if (border_ > 0 || request_->wrapped) {
      options.engine = "auto";
    }
    options.tolerance = tolerance_(options.tolerance);
    return options;
  }
  bool describe_only() const override { return request_->describe_only; }
  bool additive() const override { return request_->role == "bias"; }
  std::optional<Index> causal_shift() override {
    // Under a border the order of the inner mask alone is not the order of the whole.
    if (border_ > 0 || !request_->causal_shift) return std::nullopt;
    causal_taken = true;
    return request_->causal_shift;
  }

  MaskSources sources;
  bool causal_taken = false;

 private:
  void check_named(const std::string& file) const {
    if (file.empty()) throw FlagError(request_->role, "a file's name is missing after the colon");
  }
  FormArray floats(const std::string& flag, const std::string& path, bool booleans) {
    const NpyArray a = run_->inputs.array(flag, path);
    const bool boolean = booleans && a.type == NpyType::boolean;
    if (!a.is_floating() && !boolean) {
      throw FormatError(path, 0, "elements of type " + name_of(a.type) + " (expected floats" + (booleans ? " or bool)" : ")"));
    }
    FormArray array{a.shape, convert<double>(a)};
    if (boolean && additive()) {
      for (double& v : array.values) v = v != 0 ? 0.0 : -HUGE_VAL;
    }
    if (!booleans) require_finite(array.values, path);
    return array;
  }

  Run* run_;
  const MaskRequest* request_;
  std::string operand_;
  Index border_;
  Tolerance tolerance_;
};

// Runs the form's functions; errors without a file or flag get the mask's flag in front.
template <class T>
std::vector<MaskPointer<T>> run_builder(const MaskForm& form, FlagArguments& arguments) {
  try {
    if (form.grid_sizes) arguments.sources.grid = form.grid_sizes(arguments);
    if constexpr (std::is_same_v<T, float>) {
      return form.build_float(arguments);
    } else {
      return form.build_double(arguments);
    }
  } catch (const FormatError&) {
    throw;
  } catch (const FlagError&) {
    throw;
  } catch (const FunctionError&) {
    throw;
  } catch (const ValueError& error) {
    arguments.refuse(error.what());
  } catch (const ShapeError& error) {
    arguments.refuse(error.what());
  }
}

// Dense and low-rank masks have the sizes of their files.
void require_square(const MaskSources& sources, Index rows, Index cols) {
  if (rows == cols || sources.matrices.empty()) return;
  const auto& [file, shape] = sources.matrices.back();
  const std::string only = "; only attend takes masks of Lq x Lk)";
  if (sources.matrices.size() == 1) {
    throw FormatError(file, 0, std::to_string(rows) + " x " + std::to_string(cols) + " (expected a square matrix" + only);
  }
  throw FormatError(file, 0,
                    std::to_string(cols) + " rows (expected " + std::to_string(rows) + " as " + sources.matrices.front().first +
                        " has, for a square mask" + only);
}

}  // namespace

std::string heads_text(const MaskSources& sources, const std::string& mask) {
  if (sources.table_file.empty()) return mask + " has one mask a head";
  return sources.table_file + " has shape " + shape_text(sources.table_shape) + ", one table a head of " + mask;
}

std::string without_class(const std::string& text) {
  const std::string end = "Mask: ";
  const auto at = text.find(end);
  const bool word = at != std::string::npos && std::all_of(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at),
                                                           [](unsigned char c) { return std::isalpha(c) != 0; });
  return word ? text.substr(at + end.size()) : text;
}

void add_mask_flags(Flags& flags, bool with_bias) {
  const std::vector<MaskForm> forms = mask_forms();
  std::string list;
  for (const MaskForm& form : forms) {
    list += "\n    " + form.kind + (form.operand.empty() ? "" : ":" + form.operand) + "  " + form.help;
  }
  const std::string group = "Masks (--mask)";
  const std::string sizes = with_bias ? "Lq x Lk (only ones, dense and low-rank have Lk other than Lq), " : "";
  flags.value("mask", "M", sizes + "one of" + list, group);
  if (with_bias) flags.value("bias", "M", "the same, added to the scores of softmax; its flags: --bias-function, ...", group);
  const auto add = [&](const std::string& name, const std::string& value, const std::string& help) {
    if (value.empty()) {
      flags.toggle(name, help, group);
      if (with_bias) flags.toggle("bias-" + name, "the same for --bias", "");
    } else {
      flags.value(name, value, help, group);
      if (with_bias) flags.value("bias-" + name, value, "the same for --bias", "");
    }
  };
  for (const MaskForm& form : forms) {
    for (const auto& f : form.flags) add(f.name, f.value, form.kind + ": " + f.help);
  }
  add("function", "F", "an expression in d, or table:FILE.npy");
  add("table", "T.npy", "table of values");
  add("weights", "W.npy", "edge weights of a tree given as .npy");
  add("nodes", "N", "number of nodes of a graph file (adds isolated ones)");
  add("border", "n", "n extra tokens first");
  add("border-weight", "w", "weight between extra tokens and others, or row,column,corner (default 1; under --bias 0)");
  for (const char* prefix : {"", "bias-"}) {
    flags.later(std::string(prefix) + "leaves", "it comes with the adoption issue");
    flags.later(std::string(prefix) + "edge-weights", "it comes with the adoption issue");
    flags.later(std::string(prefix) + "directed", "it comes with the graph issue");
  }
}

template <class T>
BuiltMask<T> build_mask(Run& run, const MaskRequest& request) {
  BuiltMask<T> built;
  built.text = run.flags.required(request.role, "a mask");
  const auto colon = built.text.find(':');
  const std::vector<MaskForm> forms = mask_forms();
  const MaskForm& form = find_form(forms, built.text.substr(0, colon), request.role, built.text);
  built.request = request;
  const std::string prefix = request.prefixed ? request.role + "-" : "";
  if (colon != std::string::npos && form.operand.empty()) {
    throw FlagError(request.role,
                    "'" + built.text + "': " + form.kind + " takes nothing after its name (expected " + form.kind + ")");
  }
  built.border = run.flags.integer(prefix + "border", 0, kMostBorder).value_or(0);
  const auto weight_text = built.border > 0 ? run.flags.text(prefix + "border-weight") : std::nullopt;
  const auto weights = border_weights(weight_text, prefix + "border-weight", request.role == "bias" ? 0.0 : 1.0);
  const FlagArguments::Tolerance tolerance{sizeof(T) == sizeof(float) ? 1e-6 : 1e-12,
                                           request.wrapped && form.kind == "graph" ? 256.0 : 1.0};
  FlagArguments arguments(run, request, colon == std::string::npos ? "" : built.text.substr(colon + 1), built.border,
                          tolerance);
  run.set_up_seconds(seconds_of([&] {
    built.heads = run_builder<T>(form, arguments);
    if (built.heads.empty()) throw FlagError(request.role, built.text + " has no head");
    if (request.square) require_square(arguments.sources, built.rows(), built.cols());
    built.inside = built.heads;
    built.layers = {built.heads[0]};
    if (built.border > 0) {
      MaskOptions options = request.options.value_or(run.mask_options());
      options.engine = request.engines && !request.wrapped ? request.engines->outer : "auto";
      for (auto& mask : built.heads) mask = std::make_shared<BorderedMask<T>>(mask, built.border, weights, options);
      built.layers.push_back(built.heads[0]);
    }
  }));
  built.sources = std::move(arguments.sources);
  built.causal = arguments.causal_taken;
  return built;
}
template BuiltMask<float> build_mask<float>(Run&, const MaskRequest&);
template BuiltMask<double> build_mask<double>(Run&, const MaskRequest&);

template <class T>
void make_causal(Run& run, BuiltMask<T>& m, Index shift) {
  if (m.causal) return;
  MaskOptions options = run.mask_options();
  options.engine = m.request.engines ? m.request.engines->outer : "auto";
  run.set_up_seconds(seconds_of([&] {
    for (auto& mask : m.heads) {
      try {
        mask = std::make_shared<CausalMask<T>>(mask, shift, options);
      } catch (const ValueError& error) {
        throw FlagError("causal", without_class(error.what()));
      }
    }
  }));
  m.causal = true;
  m.wrapped_shift = shift;
  m.layers.push_back(m.heads[0]);
}
template void make_causal<float>(Run&, BuiltMask<float>&, Index);
template void make_causal<double>(Run&, BuiltMask<double>&, Index);

void refuse_size(const std::string& file, const std::string& what, Index got, Index expected, const std::string& mask,
                 Index border, const std::string& prefix) {
  const Index extra = got - expected;
  std::string remedy = "check that the file belongs to the mask";
  // Extra tokens are few: more rows than that are another file's.
  if (extra > 0 && (extra <= 4 || extra <= expected / 4) && extra <= 64) {
    remedy = (extra == 1 ? "one extra token" : std::to_string(extra) + " extra tokens") + std::string("? add --") + prefix +
             "border " + std::to_string(border + extra);
    if (border > 0) {
      remedy = (extra == 1 ? "one more extra token" : std::to_string(extra) + " more extra tokens") + std::string("? set --") +
               prefix + "border " + std::to_string(border + extra);
    }
  } else if (border > 0 && -extra == border) {
    remedy = "no extra tokens? leave out --" + prefix + "border";
  }
  throw ValueError(file + ": " + std::to_string(got) + " " + what + " (expected " + std::to_string(expected) + " from " + mask +
                   (border > 0 ? " with --" + prefix + "border " + std::to_string(border) : "") + "; " + remedy + ")");
}

}  // namespace espalier::tools
