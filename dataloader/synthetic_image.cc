#include "dataloader/synthetic_image.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
// jpeglib.h needs size_t and FILE declared before it.
#include <fmt/format.h>
#include <jpeglib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

namespace albef {
namespace {

using Rgb = std::array<double, 3>;

struct Point {
  double x = 0;
  double y = 0;
};

double Distance(Point a, Point b) { return std::hypot(a.x - b.x, a.y - b.y); }

// Distance from p to the segment from a to b.
double SegmentDistance(Point p, Point a, Point b) {
  const double dx = b.x - a.x;
  const double dy = b.y - a.y;
  const double along = ((p.x - a.x) * dx + (p.y - a.y) * dy) / (dx * dx + dy * dy);
  const double t = std::clamp(along, 0.0, 1.0);
  return Distance(p, {a.x + t * dx, a.y + t * dy});
}

// Distance to the outline of a polygon, negative inside (even–odd rule).
double PolygonDistance(Point p, const std::vector<Point>& polygon) {
  double distance = std::numeric_limits<double>::infinity();
  bool inside = false;
  for (size_t i = 0; i < polygon.size(); ++i) {
    const Point a = polygon[i];
    const Point b = polygon[(i + 1) % polygon.size()];
    distance = std::min(distance, SegmentDistance(p, a, b));
    // A ray to the right crosses this edge.
    if ((a.y > p.y) != (b.y > p.y) && p.x < a.x + (p.y - a.y) / (b.y - a.y) * (b.x - a.x)) {
      inside = !inside;
    }
  }
  return inside ? -distance : distance;
}

// Corners at alternating radii, the first at the top.
std::vector<Point> StarPolygon(int points, double inner_radius) {
  std::vector<Point> polygon;
  for (int i = 0; i < 2 * points; ++i) {
    const double angle = std::numbers::pi * (static_cast<double>(i) / points - 0.5);
    const double radius = i % 2 == 0 ? 1.0 : inner_radius;
    polygon.push_back({radius * std::cos(angle), radius * std::sin(angle)});
  }
  return polygon;
}

std::vector<Point> HeartPolygon() {
  std::vector<Point> polygon;
  constexpr int kCorners = 48;
  for (int i = 0; i < kCorners; ++i) {
    const double t = 2 * std::numbers::pi * i / kCorners;
    polygon.push_back(
        {std::pow(std::sin(t), 3),
         -(13 * std::cos(t) - 5 * std::cos(2 * t) - 2 * std::cos(3 * t) - std::cos(4 * t)) / 16});
  }
  return polygon;
}

// Outlines of the shapes that are polygons, within the unit circle, y downwards.
std::vector<Point> UnitPolygon(SyntheticShape shape) {
  constexpr double kSide = 0.82;
  constexpr double kArm = 0.32;
  switch (shape) {
    case SyntheticShape::kSquare:
      return {{-kSide, -kSide}, {kSide, -kSide}, {kSide, kSide}, {-kSide, kSide}};
    case SyntheticShape::kTriangle:
      return {{0, -0.95}, {0.95, 0.75}, {-0.95, 0.75}};
    case SyntheticShape::kStar:
      return StarPolygon(5, 0.42);
    case SyntheticShape::kCross:
      return {{-kArm, -1}, {kArm, -1}, {kArm, -kArm}, {1, -kArm}, {1, kArm},   {kArm, kArm},
              {kArm, 1},   {-kArm, 1}, {-kArm, kArm}, {-1, kArm}, {-1, -kArm}, {-kArm, -kArm}};
    case SyntheticShape::kDiamond:
      return {{0, -1}, {0.7, 0}, {0, 1}, {-0.7, 0}};
    case SyntheticShape::kHeart:
      return HeartPolygon();
    case SyntheticShape::kCircle:
    case SyntheticShape::kRing:
    case SyntheticShape::kCrescent:
      return {};
  }
  return {};
}

// Distance to the outline of a shape of radius 1 at the origin, negative inside.
double UnitDistance(SyntheticShape shape, const std::vector<Point>& polygon, Point p) {
  const double from_circle = std::hypot(p.x, p.y) - 1;
  switch (shape) {
    case SyntheticShape::kCircle:
      return from_circle;
    case SyntheticShape::kRing:
      return std::max(from_circle, 0.6 - (from_circle + 1));
    case SyntheticShape::kCrescent:
      return std::max(from_circle, 0.82 - Distance(p, {0.45, -0.1}));
    default:
      return PolygonDistance(p, polygon);
  }
}

class Canvas {
 public:
  Canvas(int width, int height)
      : width_(width),
        height_(height),
        pixels_(static_cast<size_t>(width) * static_cast<size_t>(height)) {}

  int width() const { return width_; }
  int height() const { return height_; }
  double short_side() const { return std::min(width_, height_); }
  Point At(Point relative) const { return {relative.x * width_, relative.y * height_}; }

  // Sets every pixel to color_at(its centre).
  template <typename ColorAt>
  void Paint(ColorAt color_at) {
    for (int y = 0; y < height_; ++y) {
      for (int x = 0; x < width_; ++x) Pixel(x, y) = color_at(Point{x + 0.5, y + 0.5});
    }
  }

  // Blends `color` over the pixels in reach of `center`, as far as distance_at(pixel centre), in
  // pixels, leaves them covered.
  template <typename DistanceAt>
  void Blend(Point center, double reach, const Rgb& color, double opacity, DistanceAt distance_at) {
    const int left = std::max(0, static_cast<int>(center.x - reach) - 1);
    const int right = std::min(width_ - 1, static_cast<int>(center.x + reach) + 1);
    const int top = std::max(0, static_cast<int>(center.y - reach) - 1);
    const int bottom = std::min(height_ - 1, static_cast<int>(center.y + reach) + 1);
    for (int y = top; y <= bottom; ++y) {
      for (int x = left; x <= right; ++x) {
        const double distance = distance_at(Point{x + 0.5, y + 0.5});
        const double alpha = opacity * std::clamp(0.5 - distance, 0.0, 1.0);
        Rgb& pixel = Pixel(x, y);
        for (size_t c = 0; c < 3; ++c) pixel[c] += alpha * (color[c] - pixel[c]);
      }
    }
  }

  // 8 bits per channel, with noise of ±amplitude.
  Image Finish(double noise_amplitude, RandomStream& random) const {
    Image image;
    image.Resize(height_, width_);
    uint8_t* byte = image.rgb_HWC.data();
    for (const Rgb& pixel : pixels_) {
      for (const double value : pixel) {
        const double noise = (random.Next32() * 0x1p-31 - 1) * noise_amplitude;
        *byte++ = static_cast<uint8_t>(std::lround(std::clamp(value + noise, 0.0, 255.0)));
      }
    }
    return image;
  }

 private:
  Rgb& Pixel(int x, int y) {
    return pixels_[static_cast<size_t>(y) * static_cast<size_t>(width_) + static_cast<size_t>(x)];
  }

  int width_;
  int height_;
  std::vector<Rgb> pixels_;
};

Rgb Shade(const Rgb& color, double factor) {
  return {color[0] * factor, color[1] * factor, color[2] * factor};
}

Rgb Mix(const Rgb& a, const Rgb& b, double t) {
  return {a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2])};
}

Rgb DrawTint(SyntheticColor color, RandomStream& random) {
  Rgb tint = SyntheticRgb(color);
  for (double& channel : tint) channel = std::clamp(channel + random.Uniform(-10, 10), 0.0, 255.0);
  return tint;
}

void DrawBackground(const SyntheticScene& scene, Canvas& canvas, RandomStream& random) {
  const Rgb base = DrawTint(scene.background, random);
  // A second tone that still goes by the same name: lighter for black, darker for all others.
  const Rgb tone = scene.background == SyntheticColor::kBlack ? Mix(base, {255, 255, 255}, 0.2)
                                                              : Shade(base, 0.76);
  const double angle = random.Uniform(0, 2 * std::numbers::pi);
  const Point direction{std::cos(angle), std::sin(angle)};
  const double period = canvas.short_side() * random.Uniform(0.12, 0.2);
  const double phase = random.Uniform(0, 1);
  const auto along = [direction](Point p) { return p.x * direction.x + p.y * direction.y; };
  const auto across = [direction](Point p) { return p.y * direction.x - p.x * direction.y; };
  // Square wave between 0 and 1 with edges one pixel wide.
  const auto wave = [period, phase](double position) {
    const double place = position / period + phase;
    const double from_edge = 0.25 - std::abs(place - std::floor(place) - 0.5);
    return std::clamp(from_edge * period + 0.5, 0.0, 1.0);
  };
  switch (scene.pattern) {
    case SyntheticPattern::kPlain:
      canvas.Paint([&](Point) { return base; });
      break;
    case SyntheticPattern::kStriped:
      canvas.Paint([&](Point p) { return Mix(base, tone, wave(along(p))); });
      break;
    case SyntheticPattern::kCheckered:
      canvas.Paint([&](Point p) {
        const double u = wave(along(p));
        const double v = wave(across(p));
        return Mix(base, tone, u + v - 2 * u * v);
      });
      break;
    case SyntheticPattern::kShaded: {
      const Point center = canvas.At({0.5, 0.5});
      const double span = std::hypot(canvas.width(), canvas.height());
      const Rgb far = Mix(base, tone, 1.6);
      canvas.Paint([&](Point p) {
        return Mix(base, far, std::clamp((along(p) - along(center)) / span + 0.5, 0.0, 1.0));
      });
      break;
    }
  }
}

// Faint dots and lines that no caption mentions.
void DrawClutter(Canvas& canvas, RandomStream& random) {
  const double unit = canvas.short_side();
  const auto draw_point = [&] { return canvas.At({random.Uniform(), random.Uniform()}); };
  const auto draw_gray = [&] {
    const double level = random.Uniform(0, 255);
    return Rgb{level, level, level};
  };
  for (uint64_t n = 4 + random.Below(9); n > 0; --n) {
    const Point center = draw_point();
    const double radius = unit * random.Uniform(0.006, 0.014);
    const Rgb gray = draw_gray();
    canvas.Blend(center, radius, gray, random.Uniform(0.2, 0.4),
                 [&](Point p) { return Distance(p, center) - radius; });
  }
  for (uint64_t n = random.Below(5); n > 0; --n) {
    const Point a = draw_point();
    const Point b = draw_point();
    const Rgb gray = draw_gray();
    const double half_width = unit * 0.004;
    canvas.Blend({(a.x + b.x) / 2, (a.y + b.y) / 2}, Distance(a, b) / 2 + 1, gray,
                 random.Uniform(0.15, 0.3),
                 [&](Point p) { return SegmentDistance(p, a, b) - half_width; });
  }
}

// `center` is relative to the canvas, `radius` to its shorter side.
void DrawObject(const SyntheticObject& object, Point center, double radius, Canvas& canvas,
                RandomStream& random) {
  const Point middle = canvas.At(center);
  const double scale = radius * canvas.short_side();
  const double tilt = random.Uniform(-0.15, 0.15);
  const double cosine = std::cos(tilt);
  const double sine = std::sin(tilt);
  const Rgb tint = DrawTint(object.color, random);
  const std::vector<Point> polygon = UnitPolygon(object.shape);
  canvas.Blend(middle, scale * std::numbers::sqrt2, tint, 1.0, [&](Point p) {
    const Point q{(p.x - middle.x) / scale, (p.y - middle.y) / scale};
    return scale * UnitDistance(object.shape, polygon,
                                {cosine * q.x + sine * q.y, cosine * q.y - sine * q.x});
  });
}

Point Jitter(Point p, double amount, RandomStream& random) {
  const double dx = random.Uniform(-amount, amount);
  const double dy = random.Uniform(-amount, amount);
  return {p.x + dx, p.y + dy};
}

void DrawSingle(const SyntheticScene& scene, Canvas& canvas, RandomStream& random) {
  const bool large = scene.size == SyntheticSize::kLarge;
  const double radius = large ? random.Uniform(0.24, 0.3) : random.Uniform(0.11, 0.14);
  const double offset = large ? 0.22 : 0.27;
  Point center{0.5, 0.5};
  switch (scene.place) {
    case SyntheticPlace::kLeft:
      center.x -= offset;
      break;
    case SyntheticPlace::kRight:
      center.x += offset;
      break;
    case SyntheticPlace::kTop:
      center.y -= offset;
      break;
    case SyntheticPlace::kBottom:
      center.y += offset;
      break;
    case SyntheticPlace::kCenter:
      break;
  }
  DrawObject(scene.objects[0], Jitter(center, 0.04, random), radius, canvas, random);
}

// Evenly around the middle, starting at any angle.
void DrawGroup(const SyntheticScene& scene, Canvas& canvas, RandomStream& random) {
  const double start = random.Uniform(0, 2 * std::numbers::pi);
  const double radius = random.Uniform(0.12, 0.15);
  for (int i = 0; i < scene.count; ++i) {
    const double angle = start + 2 * std::numbers::pi * i / scene.count;
    const Point center{0.5 + 0.28 * std::cos(angle), 0.5 + 0.28 * std::sin(angle)};
    DrawObject(scene.objects[0], Jitter(center, 0.02, random), radius, canvas, random);
  }
}

void DrawObjects(const SyntheticScene& scene, Canvas& canvas, RandomStream& random) {
  const auto draw = [&](size_t index, Point center, double radius) {
    DrawObject(scene.objects[index], Jitter(center, 0.03, random), radius, canvas, random);
  };
  switch (scene.kind) {
    case SyntheticKind::kSingle:
      return DrawSingle(scene, canvas, random);
    case SyntheticKind::kGroup:
      return DrawGroup(scene, canvas, random);
    case SyntheticKind::kLeftOf:
      draw(0, {0.26, 0.5}, random.Uniform(0.17, 0.2));
      return draw(1, {0.74, 0.5}, random.Uniform(0.17, 0.2));
    case SyntheticKind::kAbove:
      draw(0, {0.5, 0.26}, random.Uniform(0.17, 0.2));
      return draw(1, {0.5, 0.74}, random.Uniform(0.17, 0.2));
    case SyntheticKind::kInside: {
      const Point center = Jitter({0.5, 0.5}, 0.06, random);
      DrawObject(scene.objects[1], center, random.Uniform(0.38, 0.42), canvas, random);
      return DrawObject(scene.objects[0], center, random.Uniform(0.14, 0.16), canvas, random);
    }
    case SyntheticKind::kBetween: {
      const bool upright = random.Bernoulli(0.5);
      const size_t first = random.Bernoulli(0.5) ? 1 : 2;
      const auto place = [upright](double t) { return upright ? Point{0.5, t} : Point{t, 0.5}; };
      const double radius = random.Uniform(0.12, 0.14);
      draw(first, place(0.18), radius);
      draw(0, place(0.5), radius);
      return draw(3 - first, place(0.82), radius);
    }
  }
}

}  // namespace

Image DrawSyntheticImage(const SyntheticScene& scene, int size_px, RandomStream& random) {
  const double side = size_px * random.Uniform(0.8, 1.25);
  const double aspect = std::exp(random.Uniform(-1, 1) * std::log(1.3));
  Canvas canvas(std::max(1, static_cast<int>(std::lround(side * std::sqrt(aspect)))),
                std::max(1, static_cast<int>(std::lround(side / std::sqrt(aspect)))));
  DrawBackground(scene, canvas, random);
  DrawClutter(canvas, random);
  DrawObjects(scene, canvas, random);
  const double noise_amplitude = random.Uniform(2, 8);
  return canvas.Finish(noise_amplitude, random);
}

namespace {

// libjpeg calls error_exit when it cannot go on, and expects it not to return.
struct JpegErrors {
  jpeg_error_mgr base;
  std::jmp_buf jump;
};

[[noreturn]] void LeaveJpeg(j_common_ptr jpeg) {
  std::longjmp(reinterpret_cast<JpegErrors*>(jpeg->err)->jump, 1);
}

// Only plain types live across setjmp. `*bytes` is from malloc; false when libjpeg gave up.
bool CompressJpeg(ImageView image, int quality, unsigned char** bytes, unsigned long* size) {
  jpeg_compress_struct jpeg = {};
  JpegErrors errors;
  jpeg.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = LeaveJpeg;
  if (setjmp(errors.jump) != 0) {
    jpeg_destroy_compress(&jpeg);
    return false;
  }
  jpeg_create_compress(&jpeg);
  jpeg_mem_dest(&jpeg, bytes, size);
  jpeg.image_width = static_cast<JDIMENSION>(image.width);
  jpeg.image_height = static_cast<JDIMENSION>(image.height);
  jpeg.input_components = 3;
  jpeg.in_color_space = JCS_RGB;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, quality, TRUE);
  jpeg_start_compress(&jpeg, TRUE);
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = const_cast<JSAMPROW>(image.row(static_cast<int>(jpeg.next_scanline)));
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  return true;
}

}  // namespace

absl::StatusOr<std::string> EncodeJpeg(ImageView image, int quality) {
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  const bool done = CompressJpeg(image, quality, &bytes, &size);
  std::string jpeg;
  if (done) jpeg.assign(reinterpret_cast<const char*>(bytes), size);
  std::free(bytes);
  if (!done) {
    return absl::ResourceExhaustedError(
        fmt::format("libjpeg cannot encode an image of {}x{} pixels", image.width, image.height));
  }
  return jpeg;
}

}  // namespace albef
