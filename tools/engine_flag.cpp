// --engine: the engine that runs a mask with its border and causal order.
// SPDX-License-Identifier: Apache-2.0
#include "mask_flags.hpp"

#include <algorithm>

namespace espalier::tools {

namespace {

// What a causal order asks of a mask whose matrix it forms: masks/causal.cpp multiplies 64 unit columns at once.
constexpr Shape kForming{.columns = 64};

// "sweep" runs in "sweep" and in "sweep+fft".
bool runs(const std::string& engines, const std::string& name) {
  const std::string all = "+" + engines + "+";
  return all.find("+" + name + "+") != std::string::npos;
}

template <class T>
BuiltMask<T> built_again(Run& run, const BuiltMask<T>& m, const LayerEngines& engines) {
  MaskRequest request = m.request;
  request.engines = engines;
  BuiltMask<T> next = build_mask<T>(run, request);
  if (m.wrapped_shift) make_causal(run, next, *m.wrapped_shift);
  return next;
}

// The report of a mask whose innermost layer was asked for `name`, where that is what runs or what the rest is made from.
// ValueError where a layer has no such engine.
template <class T>
std::optional<Report> inner_report(const BuiltMask<T>& m, const BuiltMask<T>& free, Shape shape, const std::string& name) {
  const bool ordered = m.wrapped_shift.has_value();
  const Mask<T>& below = *m.layers[m.layers.size() - (ordered ? 2 : 1)];
  const bool formed = ordered && below.entries().kind == EntryKind::none;
  (void)m.layers[0]->report(formed ? kForming : shape);
  Report r = m.heads[0]->report(shape);
  if (runs(r.engine, name)) return r;
  // Entries that there are under this engine only come from it.
  const bool made = ordered && !formed && free.layers[0]->entries().kind == EntryKind::none;
  if (!made && !(formed && runs(below.report(kForming).engine, name))) return std::nullopt;
  r.reason += "; what is inside comes from the engine " + name;
  return r;
}

template <class T>
struct Forced {
  BuiltMask<T> mask;
  Report report;
};

// `m`, built with every engine free, with one engine asked for; nothing where neither the inside nor the whole has it.
template <class T>
std::optional<Forced<T>> forced(Run& run, const BuiltMask<T>& m, Shape shape, const std::string& name) {
  const std::vector<std::string> warnings = run.warnings;
  std::optional<Forced<T>> found;
  for (const bool inside : {true, false}) {
    if (found || (!inside && m.layers.size() == 1)) continue;
    try {
      BuiltMask<T> next = built_again(run, m, inside ? LayerEngines{name, "auto"} : LayerEngines{"auto", name});
      const auto r = inside ? inner_report(next, m, shape, name) : std::optional<Report>(next.heads[0]->report(shape));
      if (r) found = Forced<T>{std::move(next), *r};
    } catch (const ValueError&) {  // not an engine of this layer
    }
    run.warnings = warnings;  // the files were read again
  }
  return found;
}

// Every name that `forced` takes, the whole mask's first.
template <class T>
std::string working_engines(Run& run, const BuiltMask<T>& m, Shape shape) {
  std::vector<std::string> names;
  for (auto layer = m.layers.rbegin(); layer != m.layers.rend(); ++layer) {
    for (const Shape& s : {shape, kForming}) {
      try {
        for (const Report& r : (*layer)->engines(s)) {
          if (std::find(names.begin(), names.end(), r.engine) == names.end()) names.push_back(r.engine);
        }
      } catch (const ValueError&) {  // no engine for this shape
      }
    }
  }
  std::string text;
  for (const std::string& name : names) {
    if (forced(run, m, shape, name)) text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

// Where what is inside has no exact engine, what is around it has none either, and cannot say which others there are.
template <class T>
void check_exact_engine(Run& run, const BuiltMask<T>& m, Shape shape) {
  if (m.layers.size() < 2 || m.layers[0]->options().engine != "auto") return;
  const bool formed = m.wrapped_shift && m.layers[m.layers.size() - 2]->entries().kind == EntryKind::none;
  (void)chosen_engine(run, *m.layers[0], formed ? kForming : shape);
}

}  // namespace

template <class T>
Report chosen_engine(Run& run, const Mask<T>& mask, Shape shape) {
  try {
    return mask.report(shape);
  } catch (const FunctionError&) {
    throw;
  } catch (const ValueError& error) {
    const std::string text = error.what();
    // With every exact engine away the tolerance is what must change, whichever engine was named.
    const bool inexact = text.starts_with("no exact engine");
    throw FlagError(run.engine() != "auto" && !inexact ? "engine" : "tolerance", text);
  }
}
template Report chosen_engine<float>(Run&, const Mask<float>&, Shape);
template Report chosen_engine<double>(Run&, const Mask<double>&, Shape);

template <class T>
Report chosen_engine(Run& run, BuiltMask<T>& mask, Shape shape) {
  const std::string name = run.engine();
  if (run.mask_options().tolerance == 0) check_exact_engine(run, mask, shape);
  if (name == "auto" || (mask.border == 0 && !mask.request.wrapped)) return chosen_engine(run, *mask.heads[0], shape);
  if (auto found = forced(run, mask, shape, name)) {
    mask = std::move(found->mask);
    return found->report;
  }
  const std::string names = working_engines(run, mask, shape);
  throw FlagError("engine", "engine '" + name + "' cannot run this product" +
                                (run.mask_options().tolerance == 0 ? " at tolerance 0 (exact engines only)" : "") +
                                (names.empty() ? ": no engine can" : "; engines that would: " + names));
}
template Report chosen_engine<float>(Run&, BuiltMask<float>&, Shape);
template Report chosen_engine<double>(Run&, BuiltMask<double>&, Shape);

namespace {

// The engines that every head has, as the first one tells of them: tables differ.
template <class T>
std::vector<Report> common_engines(const std::vector<MaskPointer<T>>& heads, Shape shape) {
  std::vector<Report> all = heads[0]->engines(shape);
  for (std::size_t h = 1; h < heads.size(); ++h) {
    const std::vector<Report> other = heads[h]->engines(shape);
    std::erase_if(all, [&](const Report& r) {
      return std::none_of(other.begin(), other.end(), [&](const Report& o) { return o.engine == r.engine; });
    });
  }
  return all;
}

}  // namespace

template <class T>
std::vector<Report> listed_engines(Run& run, const BuiltMask<T>& mask, Shape shape) {
  std::vector<Report> all = common_engines(mask.heads, shape);
  // A causal order runs on tiles, whatever is inside.
  if (run.engine() != "auto" || mask.border == 0 || mask.wrapped_shift) return all;
  const auto find = [&](const std::string& name) {
    return std::find_if(all.begin(), all.end(), [&](const Report& r) { return r.engine == name; });
  };
  const std::vector<Report> inside = common_engines(mask.inside, shape);
  const Report inner = mask.inside[0]->report(shape);
  const auto chosen = find(inner.engine);
  const double border = chosen == all.end() ? 0 : chosen->predicted_seconds - inner.predicted_seconds;
  for (Report r : inside) {
    if (find(r.engine) != all.end()) continue;
    r.predicted_seconds += std::max(0.0, border);
    r.reason += "; the border beside it";
    all.push_back(std::move(r));
  }
  // What runs stands first, whatever the border is thought to cost.
  if (all.empty()) return all;
  std::stable_sort(all.begin() + 1, all.end(),
                   [](const Report& p, const Report& q) { return p.predicted_seconds < q.predicted_seconds; });
  return all;
}
template std::vector<Report> listed_engines<float>(Run&, const BuiltMask<float>&, Shape);
template std::vector<Report> listed_engines<double>(Run&, const BuiltMask<double>&, Shape);

}  // namespace espalier::tools
