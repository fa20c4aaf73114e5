// Fuzz target: any bytes are a pickle whose value can be walked through, or an error.
#include <cstdint>

#include "formats/pickle.h"
#include "tests/formats/fuzz/seeds.h"
#include "tests/formats/fuzz/walk.h"

namespace albef {

std::vector<std::string> FuzzSeeds() {
  using namespace std::string_literals;
  return {
      // {'a': [1, 2.5, (None, True)], 7: OrderedDict(_metadata)} with a memo, protocol 2
      "\x80\x02}q\0(X\x01\0\0\0aq\x01]q\x02(K\x01G\x40\x04\0\0\0\0\0\0N\x88\x86q\x03"
      "eK\x07"
      "ccollections\nOrderedDict\nq\x04)Rq\x05}X\x09\0\0\0_metadatah\x02sbu."s,
      // Calls, persistent ids, objects, big integers.
      "(cos\nsystem\nU\x02ls\x85RU\x01iQcm\nC\n)\x81}U\x01kM\x01\x02sb"
      "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
      "c__builtin__\nset\n](K\x01K\x02"
      "e\x85Rt."s,
      // Protocol 0.
      "(dp0\nS'a\\x41'\np1\nL12345678901234567890L\nsVu\\u00e9\np2\n(lp3\nF1.5\naI01\nasg1\n("
      "I1\ntp4"
      "\ns(ios\nsystem\n(g1\ncm\nC\no."s,
      // Protocol 4.
      "\x80\x04\x95\x30\0\0\0\0\0\0\0}\x94(\x8c\x01\x61\x94\x8f\x94(K\x01K\x02\x90\x8c\x01\x62"
      "(K\x01\x91\x8c\x01\x63\x8c\x02os\x8c\x06system\x93)}\x92\x8c\x01\x64"
      "C\x02\0\xff\x8c\x01\x65\x8d\x01\0\0\0\0\0\0\0xu."s,
      // A cycle.
      "]q\0(h\0}q\x01K\x01h\x01se."s,
  };
}

}  // namespace albef

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const albef::PickleLimits limits{.max_steps = 10'000, .max_walk = 10'000};
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto pickle = albef::ParsePickle(bytes, "fuzz", limits);
  if (!pickle.ok()) return 0;
  if (pickle->bytes > size || albef::Walk(pickle->root) == 0) std::abort();
  return 0;
}
