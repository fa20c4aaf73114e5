#include "dataloader/synthetic_scene.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <span>
#include <string_view>
#include <utility>

namespace albef {
namespace {

using Phrases = std::vector<std::string_view>;

template <typename Enum>
constexpr size_t Index(Enum value) {
  return static_cast<size_t>(value);
}

// All that captions are made of. In templates, {…} is replaced.
struct Grammar {
  Phrases shape = {"circle", "square",  "triangle", "star",    "ring",
                   "cross",  "diamond", "heart",    "crescent"};
  Phrases shapes = {"circles", "squares",  "triangles", "stars",    "rings",
                    "crosses", "diamonds", "hearts",    "crescents"};
  Phrases color = {"red",    "orange", "yellow", "green", "cyan",  "blue",
                   "purple", "pink",   "brown",  "black", "white", "gray"};
  Phrases number = {"one", "two", "three", "four"};
  std::vector<Phrases> size = {{"small", "little", "tiny"}, {"large", "big", "huge"}};
  std::vector<Phrases> place = {
      {"on the left", "at the left side", "near the left edge"},
      {"on the right", "at the right side", "near the right edge"},
      {"at the top", "in the upper part", "near the top edge"},
      {"at the bottom", "in the lower part", "near the bottom edge"},
      {"in the center", "in the middle", "at the center"},
  };
  // {a}, {b}, {c}: objects[0], [1], [2] with their article; {n}: how many; {many}: objects[0] in
  // the plural; {sized}: objects[0] with size and article; {place}.
  std::vector<Phrases> subject = {
      {"{sized} {place}"},
      {"{n} {many}", "{n} scattered {many}", "{n} {many} together"},
      {"{a} left of {b}", "{a} to the left of {b}", "{b} right of {a}", "{b} to the right of {a}"},
      {"{a} above {b}", "{a} over {b}", "{b} below {a}", "{b} under {a}"},
      {"{a} inside {b}", "{a} within {b}", "{b} around {a}", "{b} containing {a}"},
      {"{a} between {b} and {c}", "{a} between {c} and {b}", "{b} and {c} with {a} between"},
  };
  // {color}: of the background.
  std::vector<Phrases> background = {
      {"on a plain {color} background", "against a solid {color} background", "on plain {color}"},
      {"on a striped {color} background", "on {color} stripes", "against a {color} stripe pattern"},
      {"on a shaded {color} background", "on a {color} gradient",
       "against a fading {color} background"},
      {"on a checkered {color} background", "on a {color} checkerboard", "against {color} checks"},
  };
  // {subject}, {background}; {is}: is or are.
  Phrases sentence = {
      "{subject} {background}",
      "a picture of {subject} {background}",
      "an image of {subject} {background}",
      "this shows {subject} {background}",
      "there {is} {subject} {background}",
      "{background} there {is} {subject}",
  };
  Phrases linking = {"a", "an", "is", "are"};
};

const Grammar& TheGrammar() {
  static const Grammar grammar;
  return grammar;
}

constexpr std::array kBackgrounds = {
    SyntheticColor::kWhite,  SyntheticColor::kGray,  SyntheticColor::kBlack, SyntheticColor::kRed,
    SyntheticColor::kYellow, SyntheticColor::kGreen, SyntheticColor::kBlue,  SyntheticColor::kPink};
// Gray is for backgrounds only: noise and contrast changes blur it with black and white.
constexpr size_t kNumObjectColors = Index(SyntheticColor::kGray);
constexpr std::array kContainers = {SyntheticShape::kCircle, SyntheticShape::kSquare,
                                    SyntheticShape::kRing, SyntheticShape::kDiamond};

template <typename Range>
const auto& Pick(const Range& range, RandomStream& random) {
  return range[random.Below(std::size(range))];
}

// Whether people tell one from the other at a glance, also under the shading of a pattern.
bool Contrasting(SyntheticColor a, SyntheticColor b) {
  const std::array<double, 3> x = SyntheticRgb(a);
  const std::array<double, 3> y = SyntheticRgb(b);
  double squares = 0;
  for (size_t i = 0; i < x.size(); ++i) squares += (x[i] - y[i]) * (x[i] - y[i]);
  return squares >= 110 * 110;
}

SyntheticColor DrawObjectColor(std::span<const SyntheticColor> taken, RandomStream& random) {
  while (true) {
    const auto color = static_cast<SyntheticColor>(random.Below(kNumObjectColors));
    if (std::all_of(taken.begin(), taken.end(),
                    [color](SyntheticColor other) { return Contrasting(color, other); })) {
      return color;
    }
  }
}

SyntheticKind DrawKind(RandomStream& random) {
  const double u = random.Uniform();
  if (u < 0.40) return SyntheticKind::kSingle;
  if (u < 0.60) return SyntheticKind::kGroup;
  if (u < 0.70) return SyntheticKind::kLeftOf;
  if (u < 0.82) return SyntheticKind::kAbove;
  if (u < 0.92) return SyntheticKind::kInside;
  return SyntheticKind::kBetween;
}

size_t NumObjects(SyntheticKind kind) {
  switch (kind) {
    case SyntheticKind::kSingle:
    case SyntheticKind::kGroup:
      return 1;
    case SyntheticKind::kLeftOf:
    case SyntheticKind::kAbove:
    case SyntheticKind::kInside:
      return 2;
    case SyntheticKind::kBetween:
      return 3;
  }
  return 0;
}

std::string WithArticle(std::string_view noun) {
  const bool vowel = std::string_view("aeiou").find(noun.front()) != std::string_view::npos;
  return fmt::format("{} {}", vowel ? "an" : "a", noun);
}

// `text` with every {name} replaced by its value.
std::string Fill(std::string_view text,
                 std::initializer_list<std::pair<std::string_view, std::string_view>> values) {
  std::string filled(text);
  for (const auto& [name, value] : values) {
    const std::string slot = fmt::format("{{{}}}", name);
    for (size_t at = filled.find(slot); at != std::string::npos; at = filled.find(slot, at)) {
      filled.replace(at, slot.size(), value);
    }
  }
  return filled;
}

std::string DrawCaption(const SyntheticScene& scene, RandomStream& random) {
  const Grammar& grammar = TheGrammar();
  std::array<std::string, 3> nouns;
  for (size_t i = 0; i < scene.objects.size(); ++i) {
    const SyntheticObject& object = scene.objects[i];
    nouns[i] = WithArticle(fmt::format("{} {}", grammar.color[Index(object.color)],
                                       grammar.shape[Index(object.shape)]));
  }
  const SyntheticObject& first = scene.objects[0];
  const std::string_view color = grammar.color[Index(first.color)];
  const std::string many = fmt::format("{} {}", color, grammar.shapes[Index(first.shape)]);
  const std::string sized =
      WithArticle(fmt::format("{} {} {}", Pick(grammar.size[Index(scene.size)], random), color,
                              grammar.shape[Index(first.shape)]));
  const std::string subject = Fill(Pick(grammar.subject[Index(scene.kind)], random),
                                   {{"a", nouns[0]},
                                    {"b", nouns[1]},
                                    {"c", nouns[2]},
                                    {"n", grammar.number[static_cast<size_t>(scene.count - 1)]},
                                    {"many", many},
                                    {"sized", sized},
                                    {"place", Pick(grammar.place[Index(scene.place)], random)}});
  const std::string background = Fill(Pick(grammar.background[Index(scene.pattern)], random),
                                      {{"color", grammar.color[Index(scene.background)]}});
  return Fill(
      Pick(grammar.sentence, random),
      {{"subject", subject}, {"background", background}, {"is", scene.count > 1 ? "are" : "is"}});
}

}  // namespace

std::array<double, 3> SyntheticRgb(SyntheticColor color) {
  static constexpr std::array<std::array<double, 3>, 12> kPalette = {{
      {214, 40, 40},
      {245, 135, 25},
      {250, 220, 60},
      {45, 160, 70},
      {60, 205, 215},
      {40, 75, 205},
      {125, 55, 165},
      {250, 140, 190},
      {125, 78, 42},
      {28, 28, 30},
      {245, 245, 245},
      {140, 140, 140},
  }};
  return kPalette[Index(color)];
}

SyntheticScene DrawSyntheticScene(RandomStream& random) {
  const Grammar& grammar = TheGrammar();
  SyntheticScene scene;
  scene.kind = DrawKind(random);
  scene.background = Pick(kBackgrounds, random);
  scene.pattern = static_cast<SyntheticPattern>(random.Below(grammar.background.size()));
  std::vector<SyntheticColor> taken = {scene.background};
  for (size_t i = 0; i < NumObjects(scene.kind); ++i) {
    SyntheticObject object;
    object.shape = static_cast<SyntheticShape>(random.Below(grammar.shape.size()));
    if (scene.kind == SyntheticKind::kInside && i == 1) object.shape = Pick(kContainers, random);
    object.color = DrawObjectColor(taken, random);
    taken.push_back(object.color);
    scene.objects.push_back(object);
  }
  if (scene.kind == SyntheticKind::kSingle) {
    scene.size = static_cast<SyntheticSize>(random.Below(grammar.size.size()));
    scene.place = static_cast<SyntheticPlace>(random.Below(grammar.place.size()));
  } else if (scene.kind == SyntheticKind::kGroup) {
    scene.count = static_cast<int>(2 + random.Below(grammar.number.size() - 1));
  } else if (scene.kind == SyntheticKind::kBetween) {
    std::sort(scene.objects.begin() + 1, scene.objects.end());
  }
  return scene;
}

std::vector<std::string> DrawSyntheticCaptions(const SyntheticScene& scene, int count,
                                               RandomStream& random) {
  std::vector<std::string> captions;
  while (captions.size() < static_cast<size_t>(count)) {
    std::string caption = DrawCaption(scene, random);
    if (std::find(captions.begin(), captions.end(), caption) == captions.end()) {
      captions.push_back(std::move(caption));
    }
  }
  return captions;
}

std::vector<std::string> SyntheticVocabulary() {
  std::vector<std::string> lines = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  std::vector<std::string> alphanumeric;
  for (char c = '!'; c <= '~'; ++c) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isupper(byte)) continue;
    lines.emplace_back(1, c);
    if (std::isalnum(byte)) alphanumeric.emplace_back(1, c);
  }
  for (const std::string& c : alphanumeric) lines.push_back("##" + c);

  std::set<std::string> words;
  const auto add = [&words](const Phrases& phrases) {
    for (const std::string_view phrase : phrases) {
      for (size_t begin = 0; begin < phrase.size();) {
        const size_t end = std::min(phrase.find(' ', begin), phrase.size());
        const std::string_view word = phrase.substr(begin, end - begin);
        // Single letters are among the lines above.
        if (word.front() != '{' && word.size() > 1) words.emplace(word);
        begin = end + 1;
      }
    }
  };
  const Grammar& grammar = TheGrammar();
  for (const auto& phrases : {grammar.shape, grammar.shapes, grammar.color, grammar.number,
                              grammar.sentence, grammar.linking}) {
    add(phrases);
  }
  for (const auto& table : {grammar.size, grammar.place, grammar.subject, grammar.background}) {
    for (const Phrases& phrases : table) add(phrases);
  }
  lines.insert(lines.end(), words.begin(), words.end());
  return lines;
}

}  // namespace albef
