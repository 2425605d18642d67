// The library's side of the comparison with other software: runs one call at a time, as told on standard input.
// SPDX-License-Identifier: Apache-2.0
//
// One command a line; each answers with one line of JSON, {"error": ...} where it fails:
//   array NAME FILE.npy        reads an array (float32 or float64, at most four dimensions)
//   case NAME KIND KEY=VALUE.. prepares a case: its outputs, and what is made once and not counted (FFT plans)
//   run NAME                   {"wall": s, "cpu": s} of one call on one thread; cpu is the processor time of this process
//   save NAME OUTPUT FILE.npy  writes an output of the last run
//   peak                       {"flops": multiply-add peak in float flop/s, right now}
// Kinds (arrays are named by their keys; B H L D tensors):
//   softmax    q= k= v= [out_bar=] [table= sizes=14x14 border=1]   with out_bar: forward, backward and all gradients
//   linear     the same with phi = ReLU on q and k, the table as factor; the tables become masks inside the call
//   tables     table= sizes= border= heads= : with_parameters alone, for every head
//   product    q= k= v= table= engine=fft : (M o Q K^T) V / row sums by one engine; the spectrum is part of the call
//   product    q= k= v= function=NAME tolerance= engine= normalize=0|1 : the same with a fit made beforehand
//   columns    length= columns= : Toeplitz times a matrix by FFT;   transforms   length= columns= : bare FFTW of the same data
//   diffusion  graph=FILE x= time= tolerance= : exp(-t L) x in double, set-up included
#include <espalier/attention/feature_map.hpp>
#include <espalier/attention/masked_linear.hpp>
#include <espalier/attention/softmax.hpp>
#include <espalier/io/graph_files.hpp>
#include <espalier/io/npy.hpp>
#include <espalier/masks/bordered.hpp>
#include <espalier/masks/diffusion.hpp>
#include <espalier/masks/grid.hpp>

#include <cmath>
#include <cstdio>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "peak.hpp"
#include "smooth_functions.hpp"

#if ESPALIER_HAS_FFTW
#include <fftw3.h>
#endif

namespace {

using namespace espalier;
using benchmark::seconds;
using Settings = std::map<std::string, std::string>;

const Context<Cpu> kOneThread{.threads = 1};

// Whole cache lines, as the peers' own arrays are.
template <class T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, std::size_t) { ::operator delete (p, std::align_val_t{64}); }
  friend bool operator==(const LineAllocator&, const LineAllocator&) { return true; }
};
template <class T>
using Values = std::vector<T, LineAllocator<T>>;

struct Array {
  std::vector<Index> shape;
  std::vector<double> exact;  // double, for masks and diffusion
  Values<float> values;

  Index dim(std::size_t from_end) const { return from_end < shape.size() ? shape[shape.size() - 1 - from_end] : 1; }
  std::vector<Index> bhld() const { return {dim(3), dim(2), dim(1), dim(0)}; }
  TensorView<const float> view() const { return {values.data(), dim(3), dim(2), dim(1), dim(0)}; }
};

std::map<std::string, Array> arrays;

const Array& array_of(const Settings& s, const std::string& key) {
  const auto at = arrays.find(s.at(key));
  if (at == arrays.end()) throw std::runtime_error("no array " + s.at(key));
  return at->second;
}

std::vector<Index> sizes_of(const std::string& text) {
  std::vector<Index> sizes;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, 'x');) sizes.push_back(std::stoll(part));
  return sizes;
}

struct Output {
  std::vector<Index> shape;
  Values<float> values;
  std::vector<double> exact;

  Output() = default;
  explicit Output(const std::vector<Index>& s) : shape(s), values(static_cast<std::size_t>(s[0] * s[1] * s[2] * s[3])) {}
  TensorView<float> view() { return {values.data(), shape[0], shape[1], shape[2], shape[3]}; }
};

class Case {
 public:
  virtual ~Case() = default;
  virtual void run() = 0;
  std::map<std::string, Output> outputs;
};

// ---- attention -------------------------------------------------------------------------------------------------------

// Tables of offsets, one a head [H, table], as masks with `border` extra tokens. A call makes them anew from the parameters, as
// a training step does; keys are kept by with_parameters.
class TableMasks {
 public:
  explicit TableMasks(const Settings& s) {
    if (s.count("table") == 0) return;
    const Array& table = array_of(s, "table");
    border_ = std::stoll(s.at("border"));
    size_ = table.dim(0);
    const double weight = std::stod(s.at("border_weight"));
    for (std::size_t h = 0; h < table.exact.size() / static_cast<std::size_t>(size_); ++h) {
      const auto* first = table.exact.data() + h * static_cast<std::size_t>(size_);
      parameters_.emplace_back(first, first + size_);
      MaskPointer<float> mask = std::make_shared<GridMask<float>>(sizes_of(s.at("sizes")), parameters_.back());
      if (border_ > 0) {
        mask = std::make_shared<BorderedMask<float>>(mask, border_, BorderWeights{weight, weight, weight});
        parameters_.back().insert(parameters_.back().end(), 3, weight);
      }
      masks_.push_back(std::move(mask));
    }
  }
  bool empty() const { return masks_.empty(); }
  Index heads() const { return static_cast<Index>(masks_.size()); }
  Index parameters() const { return empty() ? 0 : static_cast<Index>(parameters_[0].size()); }
  void renew() {
    for (std::size_t h = 0; h < masks_.size(); ++h) masks_[h] = masks_[h]->with_parameters(parameters_[h]);
  }
  HeadMasks<float> masks() const { return masks_.empty() ? HeadMasks<float>() : HeadMasks<float>(masks_); }

 private:
  Index border_ = 0, size_ = 0;
  std::vector<std::vector<double>> parameters_;
  std::vector<MaskPointer<float>> masks_;
};

// What softmax and linear attention share: inputs, outputs, gradients.
class AttentionCase : public Case {
 public:
  explicit AttentionCase(const Settings& s) : q_(array_of(s, "q")), k_(array_of(s, "k")), v_(array_of(s, "v")), tables_(s) {
    std::vector<Index> shape = v_.bhld();
    shape[2] = q_.dim(1);
    outputs["out"] = Output(shape);
    shape[3] = 1;
    outputs["normaliser"] = Output(shape);
    if (s.count("out_bar") == 0) return;
    out_bar_ = &array_of(s, "out_bar");
    outputs["q_bar"] = Output(q_.bhld());
    outputs["k_bar"] = Output(k_.bhld());
    outputs["v_bar"] = Output(v_.bhld());
    if (!tables_.empty()) outputs["table_bar"] = Output({1, 1, tables_.heads(), tables_.parameters()});
  }

 protected:
  AttentionGradients<float> gradients(bool bias) {
    AttentionGradients<float> g{.q = outputs["q_bar"].view(), .k = outputs["k_bar"].view(), .v = outputs["v_bar"].view()};
    if (tables_.empty()) return g;
    (bias ? g.bias_parameters : g.parameters) = outputs["table_bar"].view().matrix(0, 0);
    return g;
  }
  const Array &q_, &k_, &v_;
  const Array* out_bar_ = nullptr;
  TableMasks tables_;
};

class SoftmaxCase final : public AttentionCase {
 public:
  using AttentionCase::AttentionCase;
  void run() override {
    tables_.renew();
    const auto out = outputs["out"].view(), lse = outputs["normaliser"].view();
    softmax_attention(q_.view(), k_.view(), v_.view(), out, lse, tables_.masks(), {}, {}, kOneThread);
    if (out_bar_ == nullptr) return;
    softmax_attention_vjp(q_.view(), k_.view(), v_.view(), out, lse, out_bar_->view(), gradients(true), tables_.masks(), {}, {},
                          kOneThread);
  }
};

class LinearCase final : public AttentionCase {
 public:
  using AttentionCase::AttentionCase;
  void run() override {
    tables_.renew();
    const auto out = outputs["out"].view(), d = outputs["normaliser"].view();
    masked_linear_attention(q_.view(), k_.view(), v_.view(), tables_.masks(), out, d, kRelu, kOneThread);
    if (out_bar_ == nullptr) return;
    masked_linear_attention_vjp(q_.view(), k_.view(), v_.view(), tables_.masks(), out, d, out_bar_->view(), gradients(false),
                                kRelu, kOneThread);
  }

 private:
  static constexpr LinearOptions kRelu{.features = FeatureKind::relu};
};

class TablesCase final : public Case {
 public:
  explicit TablesCase(const Settings& s) : tables_(s) {}
  void run() override { tables_.renew(); }

 private:
  TableMasks tables_;
};

// ---- products --------------------------------------------------------------------------------------------------------

// With a table: made anew in every call, as a training step does. With a function's name (and a tolerance): made once, its fit
// is a plan; the first call makes it.
class ProductCase final : public Case {
 public:
  explicit ProductCase(const Settings& s) : q_(array_of(s, "q")), k_(array_of(s, "k")), v_(array_of(s, "v")) {
    const std::vector<Index> sizes{q_.dim(1)};
    GridOptions options;
    options.engine = s.at("engine");
    options.measure_fft = true;
    if (s.count("table") > 0) {
      table_ = array_of(s, "table").exact;
      mask_ = std::make_shared<GridMask<float>>(sizes, table_, options);
    } else {
      options.tolerance = std::stod(s.at("tolerance"));
      for (const auto& [name, f] : benchmark::smooth_functions()) {
        if (name == s.at("function")) mask_ = std::make_shared<GridMask<float>>(sizes, f, Distance::l1, options);
      }
      if (mask_ == nullptr) throw std::runtime_error("no function " + s.at("function"));
    }
    if (s.count("normalize") > 0) options_.normalize = s.at("normalize") != "0";
    outputs["out"] = Output(v_.bhld());
  }
  void run() override {
    if (!table_.empty()) mask_ = mask_->with_parameters(table_);
    masked_linear_attention(q_.view(), k_.view(), v_.view(), *mask_, outputs["out"].view(), {}, options_, kOneThread);
  }

 private:
  const Array &q_, &k_, &v_;
  LinearOptions options_;
  std::vector<double> table_;
  MaskPointer<float> mask_;
};

class ColumnsCase final : public Case {
 public:
  explicit ColumnsCase(const Settings& s)
      : length_(std::stoll(s.at("length"))), columns_(std::stoll(s.at("columns"))), mask_(mask(length_)) {
    outputs["y"] = Output({1, 1, length_, columns_});
    for (Index k = 0; k < length_ * columns_; ++k) x_.push_back(static_cast<float>(k % 251) / 251.0f - 0.5f);
  }
  void run() override { mask_.multiply({x_.data(), length_, columns_}, outputs["y"].view().matrix(0, 0), kOneThread); }

 private:
  static GridMask<float> mask(Index length) {
    GridOptions options;
    options.engine = "fft";
    options.measure_fft = true;
    return GridMask<float>({length}, Rational{16, 1, 1}, Distance::l1, options);
  }
  Index length_, columns_;
  GridMask<float> mask_;
  Values<float> x_;
};

#if ESPALIER_HAS_FFTW
// Two real columns a complex array of 2 length, forward and backward in place, streamed over all the data.
class TransformsCase final : public Case {
 public:
  explicit TransformsCase(const Settings& s)
      : length_(2 * std::stoi(s.at("length"))), count_(std::stoi(s.at("columns")) / 2), data_(allocate()) {
    forward_ = fftwf_plan_dft_1d(length_, data_, data_, FFTW_FORWARD, FFTW_MEASURE);
    backward_ = fftwf_plan_dft_1d(length_, data_, data_, FFTW_BACKWARD, FFTW_MEASURE);
  }
  ~TransformsCase() override {
    fftwf_destroy_plan(forward_);
    fftwf_destroy_plan(backward_);
    fftwf_free(data_);
  }
  TransformsCase(const TransformsCase&) = delete;
  TransformsCase& operator=(const TransformsCase&) = delete;
  void prepare() {  // unnormalised transforms would overflow within a few rounds
    for (std::size_t k = 0; k < size(); ++k) data_[k][0] = static_cast<float>(k % 251) / 251.0f - 0.5f, data_[k][1] = 0.25f;
  }
  void run() override {
    for (int c = 0; c < count_; ++c) {
      fftwf_complex* z = data_ + static_cast<std::size_t>(c) * static_cast<std::size_t>(length_);
      fftwf_execute_dft(forward_, z, z);
      fftwf_execute_dft(backward_, z, z);
    }
  }

 private:
  std::size_t size() const { return static_cast<std::size_t>(length_) * static_cast<std::size_t>(count_); }
  fftwf_complex* allocate() const { return fftwf_alloc_complex(size()); }
  int length_, count_;
  fftwf_complex* data_;
  fftwf_plan forward_, backward_;
};
#endif

class DiffusionCase final : public Case {
 public:
  explicit DiffusionCase(const Settings& s)
      : x_(array_of(s, "x")), time_(std::stod(s.at("time"))), tolerance_(std::stod(s.at("tolerance"))) {
    const GraphFile file = read_graph_file(s.at("graph"));
    graph_ = std::make_shared<const Graph>(file.nodes, file.edges);
    outputs["y"].shape = {1, 1, x_.dim(1), x_.dim(0)};
    outputs["y"].exact.resize(x_.exact.size());
  }
  void run() override {
    const DiffusionMask<double> mask(graph_, time_, GraphOperator::laplacian, {.engine = "chebyshev", .tolerance = tolerance_});
    mask.multiply({x_.exact.data(), x_.dim(1), x_.dim(0)}, {outputs["y"].exact.data(), x_.dim(1), x_.dim(0)}, kOneThread);
  }

 private:
  const Array& x_;
  double time_, tolerance_;
  std::shared_ptr<const Graph> graph_;
};

// ---- commands --------------------------------------------------------------------------------------------------------

std::map<std::string, std::unique_ptr<Case>> cases;

std::unique_ptr<Case> make_case(const std::string& kind, const Settings& s) {
  if (kind == "softmax") return std::make_unique<SoftmaxCase>(s);
  if (kind == "linear") return std::make_unique<LinearCase>(s);
  if (kind == "tables") return std::make_unique<TablesCase>(s);
  if (kind == "product") return std::make_unique<ProductCase>(s);
  if (kind == "columns") return std::make_unique<ColumnsCase>(s);
#if ESPALIER_HAS_FFTW
  if (kind == "transforms") return std::make_unique<TransformsCase>(s);
#endif
  if (kind == "diffusion") return std::make_unique<DiffusionCase>(s);
  throw std::runtime_error("no such kind: " + kind);
}

Case& case_of(const std::string& name) {
  const auto at = cases.find(name);
  if (at == cases.end()) throw std::runtime_error("no case " + name);
  return *at->second;
}

std::string run_case(const std::string& name) {
  Case& c = case_of(name);
#if ESPALIER_HAS_FFTW
  if (auto* bare = dynamic_cast<TransformsCase*>(&c)) bare->prepare();
#endif
  const double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
  c.run();
  char text[96];
  std::snprintf(text, sizeof(text), "{\"wall\": %.9f, \"cpu\": %.9f}", seconds(CLOCK_MONOTONIC) - wall,
                seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu);
  return text;
}

std::string read_array(const std::string& name, const std::string& path) {
  const NpyArray file = read_npy(path);
  if (file.shape.size() > 4) throw std::runtime_error(path + ": more than four dimensions");
  Array& a = arrays[name];
  a.shape = file.shape;
  if (file.type == NpyType::float64) {
    a.exact = convert<double>(file);
  } else {
    const std::vector<float> values = convert<float>(file);
    a.values.assign(values.begin(), values.end());
  }
  return "{}";
}

std::string save_output(const std::string& name, const std::string& output, const std::string& path) {
  const Output& o = case_of(name).outputs.at(output);
  if (o.exact.empty()) {
    write_npy(path, o.shape, o.values.data());
  } else {
    write_npy(path, o.shape, o.exact.data());
  }
  return "{}";
}

std::string answer(const std::string& line) {
  std::istringstream in(line);
  std::string command, name, second, third;
  in >> command >> name >> second;
  if (command == "array") return read_array(name, second);
  if (command == "case") {
    Settings s;
    for (std::string pair; in >> pair;) s[pair.substr(0, pair.find('='))] = pair.substr(pair.find('=') + 1);
    cases[name] = make_case(second, s);
    return "{}";
  }
  if (command == "run") return run_case(name);
  if (command == "save") return in >> third, save_output(name, second, third);
  if (command == "drop") return cases.erase(name), "{}";
  if (command == "peak") return "{\"flops\": " + std::to_string(benchmark::peak(1)) + "}";
  if (command == "set") return "{\"name\": \"" + instruction_set() + "\"}";
  throw std::runtime_error("no such command: " + command);
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::string text;
    try {
      text = answer(line);
    } catch (const std::exception& error) {
      text = error.what();
      for (char& c : text) c = c == '"' || c == '\\' || c == '\n' ? '\'' : c;
      text = "{\"error\": \"" + text + "\"}";
    }
    std::cout << text << std::endl;
  }
  return 0;
}
