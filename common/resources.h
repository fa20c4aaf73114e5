// What the machine grants this process. Safe from any thread.
#ifndef ALBEF_COMMON_RESOURCES_H_
#define ALBEF_COMMON_RESOURCES_H_

#include <cstdint>
#include <string>

namespace albef {

// Cores that this process may use.
int AvailableCores();

// High-water mark of this process's resident memory.
int64_t PeakResidentBytes();

// The name that this machine gives itself; "localhost" if it has none.
std::string HostName();

}  // namespace albef

#endif  // ALBEF_COMMON_RESOURCES_H_
