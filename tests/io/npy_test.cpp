// .npy files: every type, order and byte order; malformed headers; round trips.
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <espalier/core/error.hpp>
#include <espalier/io/npy.hpp>

#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

using namespace espalier;

namespace {

std::string npy(const std::string& dictionary, const std::string& elements, int version = 1) {
  std::string header = dictionary + "\n";
  std::string out = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
  out += static_cast<char>(header.size() & 255);
  out += static_cast<char>(header.size() >> 8);
  if (version == 2) out += std::string(2, '\0');
  return out + header + elements;
}
std::string dictionary(const std::string& type, const std::string& order, const std::string& shape) {
  return "{'descr': '" + type + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}
template <class U>
std::string bytes(std::initializer_list<U> values, bool big = false) {
  std::string out;
  for (const U v : values) {
    std::string raw(sizeof(U), '\0');
    std::memcpy(raw.data(), &v, sizeof(U));
    if (big) raw.assign(raw.rbegin(), raw.rend());
    out += raw;
  }
  return out;
}
std::string error_of(const std::string& file) {
  try {
    (void)parse_npy(file, "x.npy");
  } catch (const FormatError& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("every element type is read, in both byte orders and versions") {
  const auto f4 = parse_npy(npy(dictionary("<f4", "False", "(3,)"), bytes<float>({1.5f, -2, NAN})), "x");
  CHECK(f4.type == NpyType::float32);
  CHECK(f4.shape == std::vector<Index>{3});
  CHECK(convert<double>(f4)[1] == -2);
  CHECK(std::isnan(convert<double>(f4)[2]));
  for (const int version : {1, 2}) {
    const auto f8 = parse_npy(npy(dictionary(">f8", "False", "(2, 1)"), bytes<double>({0.1, -7}, true), version), "x");
    CHECK(convert<double>(f8) == std::vector<double>{0.1, -7});
  }
  // 1, -2, smallest subnormal, infinity, 65504
  const auto f2 =
      parse_npy(npy(dictionary("<f2", "False", "(5,)"), bytes<std::uint16_t>({0x3c00, 0xc000, 1, 0x7c00, 0x7bff})), "x");
  CHECK(convert<double>(f2) == std::vector<double>{1, -2, std::ldexp(1.0, -24), HUGE_VAL, 65504});
  const auto i4 = parse_npy(npy(dictionary(">i4", "False", "(2,)"), bytes<std::int32_t>({-5, 7}, true)), "x");
  CHECK(convert<std::int64_t>(i4) == std::vector<std::int64_t>{-5, 7});
  const auto i8 = parse_npy(npy(dictionary("<i8", "False", "(1,)"), bytes<std::int64_t>({std::int64_t{1} << 60})), "x");
  CHECK(convert<std::int64_t>(i8)[0] == std::int64_t{1} << 60);
  const auto b1 = parse_npy(npy(dictionary("|b1", "False", "(3,)"), std::string("\1\0\1", 3)), "x");
  CHECK(convert<double>(b1) == std::vector<double>{1, 0, 1});
  CHECK_THROWS_AS(convert<std::int64_t>(f4), ValueError);
}

TEST_CASE("Fortran order becomes C order; scalars and empty arrays") {
  // element (i, j, k) = 100 i + 10 j + k on 2 x 3 x 2, first index fastest on disk
  std::string elements;
  for (int k = 0; k < 2; ++k) {
    for (int j = 0; j < 3; ++j) {
      for (int i = 0; i < 2; ++i) elements += bytes<float>({static_cast<float>(100 * i + 10 * j + k)});
    }
  }
  const auto a = parse_npy(npy(dictionary("<f4", "True", "(2, 3, 2)"), elements), "x");
  const auto v = convert<double>(a);
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 3; ++j) {
      for (int k = 0; k < 2; ++k) CHECK(v[static_cast<std::size_t>((i * 3 + j) * 2 + k)] == 100 * i + 10 * j + k);
    }
  }
  CHECK(parse_npy(npy(dictionary("<f8", "False", "()"), bytes<double>({4})), "x").size() == 1);
  const auto empty = parse_npy(npy(dictionary("<f8", "True", "(0, 5)"), ""), "x");
  CHECK(empty.size() == 0);
  CHECK(empty.shape == std::vector<Index>{0, 5});
}

TEST_CASE("malformed files are refused with the reason") {
  const std::string good = dictionary("<f4", "False", "(2,)"), two = bytes<float>({1, 2});
  const std::pair<std::string, std::string> cases[] = {
      {"", "is not a .npy file"},
      {"PK\x03\x04 and so on", "is not a .npy file"},
      {npy(good, two, 3), "version 3.0 of the format (expected 1.0 or 2.0)"},
      {npy(good, two).substr(0, 9), "is cut off in the header"},
      {npy(good, two).substr(0, 30), "is cut off in the header"},
      {npy(good, bytes<float>({1})), "4 bytes of elements (expected 8 for shape [2] of float32)"},
      {npy(good, two + "x"), "more than 8 bytes of elements (expected 8 for shape [2] of float32)"},
      {npy(dictionary("<c8", "False", "(1,)"), two), "element type '<c8'"},
      {npy(dictionary("|O", "False", "(1,)"), two), "element type '|O'"},
      {npy(dictionary("<u4", "False", "(1,)"), two), "element type '<u4'"},
      {npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", two), "structured type"},
      {npy("{'descr': '<f4', 'shape': (2,), }", two), "header lacks a key"},
      {npy("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", two), "header has the key 'descr'"},
      {npy("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2,), }", two), "expected True or False"},
      {npy(dictionary("<f4", "False", "(-2,)"), two), "expected a size >= 0"},
      {npy(dictionary("<f4", "False", "(2)"), two), "expected (n,)"},
      {npy(dictionary("<f4", "False", "(2 3)"), two), "expected a comma"},
      {npy(dictionary("<f4", "False", "(4294967296, 4294967296)"), two), "whose product overflows"},
      {npy(dictionary("<f4", "False", "(99999999999999999999,)"), two), "too large"},
      {npy(dictionary("<f4", "False", "(1000000000000,)"), two), "8 bytes of elements (expected 4000000000000"},
      {npy(good + "x", two), "characters after the header's dictionary"},
      {npy("", two), "malformed header"},
      {npy("{", two), "malformed header"},
  };
  for (const auto& one : cases) {
    const std::string error = error_of(one.first);
    CHECK_MESSAGE(error.find(one.second) != std::string::npos, error, " should contain ", one.second);
    CHECK(error.rfind("x.npy: ", 0) == 0);
  }
}

TEST_CASE("what is written is read back, whole or not at all") {
  const std::string path = "npy_test_" + std::to_string(getpid()) + ".npy";
  const std::vector<double> values = {1, 2.5, -3, 0, 1e300, -0.0};
  write_npy(path, {2, 3}, values.data());
  const auto back = read_npy(path);
  CHECK(back.shape == std::vector<Index>{2, 3});
  CHECK(convert<double>(back) == values);
  CHECK(read_whole_file(path).size() == 128 + 48);  // elements begin at a multiple of 64
  {
    WholeFile abandoned(path);
    abandoned.write("half");
  }
  CHECK(convert<double>(read_npy(path)) == values);
  const std::int64_t one = -1;
  write_npy(path, {}, &one);
  CHECK(read_npy(path).shape.empty());
  CHECK(convert<std::int64_t>(read_npy(path))[0] == -1);
  CHECK(unlink(path.c_str()) == 0);
  CHECK_THROWS_AS(write_npy("no_such_folder/x.npy", {1}, &one), ValueError);
  CHECK_THROWS_AS(write_npy("x.npy.gz", {1}, &one), ValueError);
  CHECK_THROWS_AS(read_npy(path), FormatError);
}
