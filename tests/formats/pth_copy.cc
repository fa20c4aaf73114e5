// Reads a .pth file of either format and writes it again, for check_pth_with_torch.py.
#include <cstdio>
#include <string>

#include "formats/pth.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: pth_copy FROM TO\n");
    return 64;
  }
  const auto file = albef::PthFile::Open(argv[1]);
  const absl::Status status = file.ok() ? albef::WritePth(argv[2], file->root()) : file.status();
  if (status.ok()) return 0;
  std::fprintf(stderr, "pth_copy: %s\n", std::string(status.message()).c_str());
  return 1;
}
