// Tar archives by hand, also ones that no program would write.
#ifndef ALBEF_TESTS_DATALOADER_TAR_BUILDER_H_
#define ALBEF_TESTS_DATALOADER_TAR_BUILDER_H_

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace albef {

class TarBuilder {
 public:
  TarBuilder& Add(std::string_view name, std::string_view content, char type = '0') {
    bytes_ += Header(name, fmt::format("{:011o}", content.size()), type);
    bytes_ += content;
    bytes_.append((512 - bytes_.size() % 512) % 512, '\0');
    return *this;
  }
  TarBuilder& AddGnuLong(std::string_view name, std::string_view content) {
    Add("././@LongLink", std::string(name) + '\0', 'L');
    return Add(name.substr(0, 100), content);
  }
  // `records` as PaxRecord makes them.
  TarBuilder& AddPax(std::string_view records, std::string_view name, std::string_view content) {
    Add("PaxHeaders/x", records, 'x');
    return Add(name, content);
  }
  TarBuilder& Raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  std::string End() const { return bytes_ + std::string(1024, '\0'); }
  const std::string& bytes() const { return bytes_; }

  static std::string PaxRecord(std::string_view key, std::string_view value) {
    const size_t rest = key.size() + value.size() + 3;
    size_t length = rest + 1;
    while (std::to_string(length).size() + rest != length) ++length;
    return fmt::format("{} {}={}\n", length, key, value);
  }
  // `size` is the field's text.
  static std::string Header(std::string_view name, std::string_view size, char type,
                            std::string_view prefix = "") {
    std::string block(512, '\0');
    const auto put = [&](size_t at, std::string_view text) {
      block.replace(at, text.size(), text);
    };
    put(0, name.substr(0, 100));
    put(100, "0000644");
    put(124, size);
    put(136, "00000000000");
    put(148, "        ");
    block[156] = type;
    put(257, std::string_view("ustar\00000", 8));
    put(345, prefix);
    unsigned sum = 0;
    for (const char c : block) sum += static_cast<uint8_t>(c);
    put(148, fmt::format("{:06o}", sum));
    block[154] = '\0';
    return block;
  }

 private:
  std::string bytes_;
};

}  // namespace albef

#endif  // ALBEF_TESTS_DATALOADER_TAR_BUILDER_H_
