// The .npy format: a magic string, a version, a header that is a Python dictionary, then the elements.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/io/npy.hpp>

#include "io/byte_source.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>

namespace espalier {

namespace {

struct Header {
  NpyType type = NpyType::float64;
  bool swap = false;  // the other byte order than this machine's
  bool fortran = false;
  std::vector<Index> shape;
  Index count = 1;
};

std::size_t bytes_of(NpyType type) {
  switch (type) {
    case NpyType::boolean:
      return 1;
    case NpyType::float16:
      return 2;
    case NpyType::float32:
    case NpyType::int32:
      return 4;
    default:
      return 8;
  }
}

// Reads the dictionary of the header, as strictly as NumPy writes it: three keys in any order, each once.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Header parse() {
    expect('{');
    bool type = false, order = false, shape = false;
    while (peek() != '}') {
      const std::string key = quoted();
      expect(':');
      if (key == "descr" && !type) {
        type = true;
        read_type(quoted());
      } else if (key == "fortran_order" && !order) {
        order = true;
        read_order();
      } else if (key == "shape" && !shape) {
        shape = true;
        read_shape();
      } else {
        fail("header has the key '" + key + "' (expected descr, fortran_order and shape, each once)");
      }
      if (peek() != '}') expect(',');
    }
    expect('}');
    if (peek() != '\0') fail("characters after the header's dictionary");
    if (!type || !order || !shape) fail("header lacks a key (expected descr, fortran_order and shape)");
    return header_;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw FormatError(file_, 0, what); }

  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  void expect(char c) {
    const char got = peek();
    if (got != c) {
      const bool printable = got > ' ' && got < 127;
      fail(std::string("malformed header (expected '") + c + "', got " +
           (printable ? std::string("'") + got + "'" : std::string("something else")) + ")");
    }
    ++at_;
  }
  std::string quoted() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail("malformed header or a structured type (expected a quoted word)");
    const auto end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("malformed header (a quote is not closed)");
    std::string word(text_.substr(at_ + 1, end - at_ - 1));
    for (char& c : word) {
      if (c < ' ' || c > '~') c = '?';
    }
    at_ = end + 1;
    return word;
  }
  void read_type(const std::string& word) {
    const std::string kind = word.size() == 3 ? word.substr(1) : std::string();
    const char order = word.empty() ? ' ' : word[0];
    const std::pair<const char*, NpyType> known[] = {{"f2", NpyType::float16}, {"f4", NpyType::float32},
                                                     {"f8", NpyType::float64}, {"b1", NpyType::boolean},
                                                     {"i4", NpyType::int32},   {"i8", NpyType::int64}};
    for (const auto& [name, type] : known) {
      if (kind != name) continue;
      const bool single = type == NpyType::boolean;
      if (order != '<' && order != '>' && order != '=' && !(single && order == '|')) break;
      header_.type = type;
      const bool big = order == '>';
      header_.swap = !single && order != '=' && big != (std::endian::native == std::endian::big);
      return;
    }
    fail("element type '" + word + "' (expected f2, f4, f8, b1, i4 or i8, with < or >)");
  }
  void read_order() {
    (void)peek();
    if (text_.substr(at_, 4) == "True") {
      header_.fortran = true;
      at_ += 4;
    } else if (text_.substr(at_, 5) == "False") {
      at_ += 5;
    } else {
      fail("malformed header (fortran_order: expected True or False)");
    }
  }
  void read_shape() {
    expect('(');
    bool comma = true;
    while (peek() != ')') {
      if (!comma) fail("malformed header (shape: expected a comma)");
      if (header_.shape.size() == 32) fail("more than 32 dimensions");
      header_.shape.push_back(integer());
      comma = peek() == ',';
      if (comma) ++at_;
    }
    if (header_.shape.size() == 1 && !comma) fail("malformed header (shape: expected (n,))");
    expect(')');
  }
  Index integer() {
    Index value = 0;
    std::size_t digits = 0;
    (void)peek();
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_, ++digits) {
      if (value > (std::numeric_limits<Index>::max() - 9) / 10) fail("a size in the shape is too large");
      value = value * 10 + (text_[at_] - '0');
    }
    if (digits == 0) fail("malformed header (shape: expected a size >= 0)");
    return value;
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
  Header header_;
};

Header read_header(ByteSource& source, const std::string& file) {
  unsigned char start[12];
  if (source.read(reinterpret_cast<char*>(start), 8) != 8 || std::memcmp(start, "\x93NUMPY", 6) != 0) {
    throw FormatError(file, 0, "is not a .npy file (expected it to begin with \\x93NUMPY)");
  }
  if ((start[6] != 1 && start[6] != 2) || start[7] != 0) {
    throw FormatError(
        file, 0,
        "version " + std::to_string(start[6]) + "." + std::to_string(start[7]) + " of the format (expected 1.0 or 2.0)");
  }
  const std::size_t width = start[6] == 1 ? 2 : 4;
  if (source.read(reinterpret_cast<char*>(start + 8), width) != width) throw FormatError(file, 0, "is cut off in the header");
  std::size_t length = 0;
  for (std::size_t i = 0; i < width; ++i) length |= static_cast<std::size_t>(start[8 + i]) << (8 * i);
  // The dictionary of a plain array has at most 32 sizes of 20 characters: longer ones are structured types or damage.
  if (length > 65535) throw FormatError(file, 0, "a header of " + std::to_string(length) + " bytes (expected at most 65535)");
  std::string text(length, '\0');
  if (source.read(text.data(), length) != length) throw FormatError(file, 0, "is cut off in the header");
  if (text.find('\0') != std::string::npos) throw FormatError(file, 0, "malformed header (a zero byte)");
  Header h = HeaderParser(text, file).parse();
  for (const Index n : h.shape) {
    if (n == 0) h.count = 0;
  }
  const Index limit = std::numeric_limits<Index>::max() / 16;
  for (const Index n : h.shape) {
    if (h.count == 0) break;
    if (h.count > limit / n) throw FormatError(file, 0, "sizes " + shape_text(h.shape) + " whose product overflows");
    h.count *= n;
  }
  return h;
}

// The elements' bytes. Grows by blocks where the size is not known before, so that a false header cannot claim memory.
std::string read_elements(ByteSource& source, const Header& h, const std::string& file) {
  const std::size_t wanted = static_cast<std::size_t>(h.count) * bytes_of(h.type);
  std::string bytes;
  const std::size_t block = std::size_t{1} << 24;
  const auto complain = [&](const std::string& got) {
    throw FormatError(file, 0,
                      got + " bytes of elements (expected " + std::to_string(wanted) + " for shape " + shape_text(h.shape) +
                          " of " + name_of(h.type) + ")");
  };
  if (source.known_size() >= 0 && static_cast<std::size_t>(source.known_size()) >= wanted) bytes.reserve(wanted);
  while (bytes.size() < wanted) {
    const std::size_t before = bytes.size();
    const std::size_t n = std::min(block, wanted - before);
    bytes.resize(before + n);
    const std::size_t got = source.read(bytes.data() + before, n);
    if (got < n) complain(std::to_string(before + got));
  }
  char extra = 0;
  if (source.read(&extra, 1) != 0) complain("more than " + std::to_string(wanted));
  return bytes;
}

template <class U>
U load(const char* p, bool swap) {
  unsigned char raw[sizeof(U)];
  std::memcpy(raw, p, sizeof(U));
  if (swap) std::reverse(raw, raw + sizeof(U));
  U value;
  std::memcpy(&value, raw, sizeof(U));
  return value;
}

// IEEE binary16 to binary32, exact for every number (subnormals too).
float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 31u;
  const std::uint32_t fraction = h & 1023u;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t bits =
      exponent == 31 ? sign | 0x7f800000u | (fraction << 13) : sign | ((exponent + 112) << 23) | (fraction << 13);
  return std::bit_cast<float>(bits);
}

template <class U>
std::vector<U> to_c_order(std::vector<U> in, const std::vector<Index>& shape) {
  if (shape.size() < 2 || in.empty()) return in;
  std::vector<U> out(in.size());
  const std::size_t d = shape.size();
  std::vector<Index> stride(d, 1), at(d, 0);
  for (std::size_t k = 1; k < d; ++k) stride[k] = stride[k - 1] * shape[k - 1];
  Index from = 0;
  for (U& value : out) {
    value = in[static_cast<std::size_t>(from)];
    for (std::size_t k = d; k-- > 0;) {
      from += stride[k];
      if (++at[k] < shape[k]) break;
      from -= stride[k] * shape[k];
      at[k] = 0;
    }
  }
  return out;
}

template <class U, class F>
std::vector<U> decode(const std::string& bytes, const Header& h, F element) {
  std::vector<U> values(static_cast<std::size_t>(h.count));
  const std::size_t width = bytes_of(h.type);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = element(bytes.data() + i * width);
  return h.fortran ? to_c_order(std::move(values), h.shape) : values;
}

NpyArray read_array(ByteSource& source, const std::string& file) {
  const Header h = read_header(source, file);
  const std::string bytes = read_elements(source, h, file);
  NpyArray a;
  a.type = h.type;
  a.shape = h.shape;
  const bool swap = h.swap;
  switch (h.type) {
    case NpyType::float16:
      a.values = decode<float>(bytes, h, [swap](const char* p) { return half_to_float(load<std::uint16_t>(p, swap)); });
      break;
    case NpyType::float32:
      a.values = decode<float>(bytes, h, [swap](const char* p) { return load<float>(p, swap); });
      break;
    case NpyType::float64:
      a.values = decode<double>(bytes, h, [swap](const char* p) { return load<double>(p, swap); });
      break;
    case NpyType::boolean:
      a.values = decode<std::uint8_t>(bytes, h, [](const char* p) { return static_cast<std::uint8_t>(*p != 0); });
      break;
    case NpyType::int32:
      a.values = decode<std::int64_t>(bytes, h, [swap](const char* p) { return std::int64_t{load<std::int32_t>(p, swap)}; });
      break;
    case NpyType::int64:
      a.values = decode<std::int64_t>(bytes, h, [swap](const char* p) { return load<std::int64_t>(p, swap); });
      break;
  }
  return a;
}

template <class T>
constexpr const char* descriptor() {
  if constexpr (std::is_same_v<T, float>) return "<f4";
  if constexpr (std::is_same_v<T, double>) return "<f8";
  return "<i8";
}

}  // namespace

std::string name_of(NpyType type) {
  switch (type) {
    case NpyType::float16:
      return "float16";
    case NpyType::float32:
      return "float32";
    case NpyType::float64:
      return "float64";
    case NpyType::boolean:
      return "bool";
    case NpyType::int32:
      return "int32";
    case NpyType::int64:
      return "int64";
  }
  return "unknown";
}

std::string shape_text(const std::vector<Index>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Index NpyArray::size() const {
  return std::visit([](const auto& v) { return static_cast<Index>(v.size()); }, values);
}

template <class T>
std::vector<T> convert(const NpyArray& array) {
  if constexpr (std::is_same_v<T, std::int64_t>) {
    if (array.is_floating()) throw ValueError("an array of " + name_of(array.type) + " (expected int32 or int64)");
  }
  return std::visit(
      [](const auto& v) {
        std::vector<T> out(v.size());
        for (std::size_t i = 0; i < v.size(); ++i) out[i] = static_cast<T>(v[i]);
        return out;
      },
      array.values);
}
template ESPALIER_EXPORT std::vector<float> convert<float>(const NpyArray&);
template ESPALIER_EXPORT std::vector<double> convert<double>(const NpyArray&);
template ESPALIER_EXPORT std::vector<std::int64_t> convert<std::int64_t>(const NpyArray&);

NpyArray read_npy(const std::string& path) {
  FileSource source(path);
  return read_array(source, path);
}

NpyArray parse_npy(std::string_view bytes, const std::string& name) {
  MemorySource source(bytes);
  return read_array(source, name);
}

template <class T>
void write_npy(WholeFile& file, const std::vector<Index>& shape, const T* values) {
  std::string sizes;
  std::size_t count = 1;
  for (const Index n : shape) {
    if (n < 0) throw ValueError("write_npy: a negative size in " + shape_text(shape));
    count *= static_cast<std::size_t>(n);
    sizes += std::to_string(n) + ", ";
  }
  if (shape.size() > 1) sizes.resize(sizes.size() - 2);
  if (shape.size() == 1) sizes.resize(sizes.size() - 1);
  std::string header = std::string("{'descr': '") + descriptor<T>() + "', 'fortran_order': False, 'shape': (" + sizes + "), }";
  // The elements begin at a multiple of 64 bytes, as NumPy writes it (memory maps stay aligned).
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string start("\x93NUMPY\x01\x00", 8);
  start += static_cast<char>(header.size() & 255);
  start += static_cast<char>(header.size() >> 8);
  file.write(start + header);
  if constexpr (std::endian::native == std::endian::little) {
    file.write(values, count * sizeof(T));
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      unsigned char raw[sizeof(T)];
      std::memcpy(raw, values + i, sizeof(T));
      std::reverse(raw, raw + sizeof(T));
      file.write(raw, sizeof(T));
    }
  }
}
template <class T>
void write_npy(const std::string& path, const std::vector<Index>& shape, const T* values) {
  WholeFile file(path);
  write_npy(file, shape, values);
  file.commit();
}
template ESPALIER_EXPORT void write_npy(WholeFile&, const std::vector<Index>&, const float*);
template ESPALIER_EXPORT void write_npy(WholeFile&, const std::vector<Index>&, const double*);
template ESPALIER_EXPORT void write_npy(WholeFile&, const std::vector<Index>&, const std::int64_t*);
template ESPALIER_EXPORT void write_npy(const std::string&, const std::vector<Index>&, const float*);
template ESPALIER_EXPORT void write_npy(const std::string&, const std::vector<Index>&, const double*);
template ESPALIER_EXPORT void write_npy(const std::string&, const std::vector<Index>&, const std::int64_t*);

}  // namespace espalier
