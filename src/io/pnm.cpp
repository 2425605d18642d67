// PPM and PGM pictures, ASCII and binary.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/io/files.hpp>
#include <espalier/io/image.hpp>

#include <algorithm>

namespace espalier {

namespace {

constexpr Index most_pixels = Index{1} << 28;

class PnmParser {
 public:
  PnmParser(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  Image parse() {
    const char kind = bytes_.size() > 2 && bytes_[0] == 'P' ? bytes_[1] : '0';
    if (kind != '2' && kind != '3' && kind != '5' && kind != '6') fail("no PGM or PPM picture (expected P2, P3, P5 or P6)");
    at_ = 2;
    const Index width = number(), height = number(), most = number();
    if (width < 1 || height < 1 || width > most_pixels / height) {
      fail("sizes " + std::to_string(width) + " x " + std::to_string(height) +
           " (expected at least 1 x 1, at most 2^28 pixels)");
    }
    if (most < 1 || most > 65535) fail("largest value " + std::to_string(most) + " (expected 1 .. 65535)");
    const bool binary = kind >= '5';
    const Index channels = kind == '3' || kind == '6' ? 3 : 1;
    const Index count = width * height * channels;
    if (binary) ++at_;  // one blank ends the header
    const Index left = static_cast<Index>(bytes_.size()) - static_cast<Index>(at_);
    const Index step = binary ? (most > 255 ? 2 : 1) : 1;
    if (left < count * step) fail("is cut off (expected " + std::to_string(count * step) + " bytes of pixels)");
    Image image(width, height, channels);
    for (std::uint8_t& p : image.pixels) {
      Index value = 0;
      if (!binary) {
        value = number();
      } else {
        for (Index k = 0; k < step; ++k) value = value * 256 + static_cast<unsigned char>(bytes_[at_++]);
      }
      if (value > most) fail("value " + std::to_string(value) + " (expected at most " + std::to_string(most) + ")");
      p = static_cast<std::uint8_t>((value * 255 + most / 2) / most);
    }
    return image;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw FormatError(file_, 0, what); }

  Index number() {
    for (; at_ < bytes_.size(); ++at_) {
      const char c = bytes_[at_];
      if (c == '#') {
        at_ = std::min(bytes_.find('\n', at_), bytes_.size());
        if (at_ == bytes_.size()) break;
      } else if (c != ' ' && c != '\t' && c != '\n' && c != '\r') {
        break;
      }
    }
    Index value = 0;
    std::size_t digits = 0;
    for (; at_ < bytes_.size() && bytes_[at_] >= '0' && bytes_[at_] <= '9' && digits < 9; ++at_, ++digits) {
      value = value * 10 + (bytes_[at_] - '0');
    }
    if (digits == 0) fail("malformed picture (expected a number)");
    return value;
  }

  std::string_view bytes_;
  const std::string& file_;
  std::size_t at_ = 0;
};

}  // namespace

Image::Image(Index width_, Index height_, Index channels_, std::uint8_t fill)
    : width(width_), height(height_), channels(channels_) {
  if (width < 0 || height < 0 || (height > 0 && width > most_pixels / height)) {
    throw ValueError("Image: " + std::to_string(width) + " x " + std::to_string(height) + " (expected at most 2^28 pixels)");
  }
  if (channels != 1 && channels != 3) throw ValueError("Image: " + std::to_string(channels) + " channels (expected 1 or 3)");
  pixels.assign(static_cast<std::size_t>(width * height * channels), fill);
}

Image parse_pnm(std::string_view bytes, const std::string& file) {
  return PnmParser(bytes, file).parse();
}

Image read_pnm(const std::string& path) {
  return parse_pnm(read_whole_file(path), path);
}

}  // namespace espalier
