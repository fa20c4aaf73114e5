// WebP by libwebp.
#include <webp/decode.h>
#include <webp/demux.h>

#include <cstddef>
#include <cstring>
#include <memory>

#include "common/status_macros.h"
#include "dataloader/image_codecs.h"

namespace albef::image_codecs {
namespace {

// The canvas after the first frame.
absl::Status DecodeFirstFrame(std::span<const uint8_t> bytes, Image& image) {
  WebPAnimDecoderOptions options;
  if (!WebPAnimDecoderOptionsInit(&options)) return Unsupported("WebP", "library version");
  options.color_mode = MODE_RGBA;
  const WebPData data{bytes.data(), bytes.size()};
  const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(
      WebPAnimDecoderNew(&data, &options), WebPAnimDecoderDelete);
  WebPAnimInfo info;
  uint8_t* canvas = nullptr;
  int timestamp_ms = 0;
  if (decoder == nullptr || !WebPAnimDecoderGetInfo(decoder.get(), &info) ||
      info.canvas_height != static_cast<uint32_t>(image.height) ||
      info.canvas_width != static_cast<uint32_t>(image.width) ||
      !WebPAnimDecoderGetNext(decoder.get(), &canvas, &timestamp_ms)) {
    return Damaged("WebP", "the animation's first frame does not decode");
  }
  for (size_t i = 0; i < image.rgb_HWC.size() / 3; ++i) {
    std::memcpy(&image.rgb_HWC[3 * i], canvas + 4 * i, 3);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DecodeWebp(std::span<const uint8_t> bytes, const DecodeOptions& options,
                        Image& image) {
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config)) return Unsupported("WebP", "library version");
  if (WebPGetFeatures(bytes.data(), bytes.size(), &config.input) != VP8_STATUS_OK) {
    return Damaged("WebP", "bad header");
  }
  RETURN_IF_ERROR(PrepareImage(config.input.height, config.input.width, options, image));
  if (config.input.has_animation) return DecodeFirstFrame(bytes, image);

  config.output.colorspace = MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = image.rgb_HWC.data();
  config.output.u.RGBA.stride = image.width * 3;
  config.output.u.RGBA.size = image.rgb_HWC.size();
  const VP8StatusCode status = WebPDecode(bytes.data(), bytes.size(), &config);
  WebPFreeDecBuffer(&config.output);
  switch (status) {
    case VP8_STATUS_OK:
      return absl::OkStatus();
    case VP8_STATUS_OUT_OF_MEMORY:
      return absl::ResourceExhaustedError("no memory to decode the WebP");
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED:
      return Damaged("WebP", "it ends early");
    default:
      return Damaged("WebP", "bad bit stream");
  }
}

}  // namespace albef::image_codecs
