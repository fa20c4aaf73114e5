// What the machine grants this process. Safe from any thread.
#ifndef ALBEF_COMMON_RESOURCES_H_
#define ALBEF_COMMON_RESOURCES_H_

#include <cstdint>

namespace albef {

// Cores that this process may use.
int AvailableCores();

// High-water mark of this process's resident memory.
int64_t PeakResidentBytes();

}  // namespace albef

#endif  // ALBEF_COMMON_RESOURCES_H_
