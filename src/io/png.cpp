// PNG files by libpng.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>
#include <espalier/io/files.hpp>
#include <espalier/io/image.hpp>

#include <png.h>

namespace espalier {

std::string encode_png(const Image& image) {
  if (image.width < 1 || image.height < 1) throw ValueError("encode_png: an empty image");
  // libpng's simplified interface: no setjmp in our code, errors come back in `control`.
  png_image control{};
  control.version = PNG_IMAGE_VERSION;
  control.width = static_cast<png_uint_32>(image.width);
  control.height = static_cast<png_uint_32>(image.height);
  control.format = image.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  std::string bytes;
  bool ok = png_image_write_to_memory(&control, nullptr, &size, 0, image.pixels.data(), 0, nullptr) != 0;
  if (ok) {
    bytes.resize(size);
    ok = png_image_write_to_memory(&control, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr) != 0;
  }
  if (!ok) throw BackendError(std::string("libpng: ") + control.message);
  bytes.resize(size);
  return bytes;
}

void write_png(const std::string& path, const Image& image) {
  const std::string bytes = encode_png(image);
  WholeFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace espalier
