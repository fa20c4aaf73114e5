// Addresses of servers: how they are written, and which of this machine's others shall dial.
#ifndef ALBEF_COMMON_NETWORK_ADDRESS_H_
#define ALBEF_COMMON_NETWORK_ADDRESS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace albef {

// "HOST:PORT", "[V6]:PORT", "ipv4:HOST:PORT" without the port and what surrounds it.
std::string HostOf(std::string_view address);

struct HostPort {
  std::string host = {};  // without brackets
  int port = 0;
};

// "HOST:PORT" or "[V6]:PORT", as on a command line. INVALID_ARGUMENT says what the form is.
absl::StatusOr<HostPort> ParseHostPort(std::string_view text);

// As ParseHostPort, for a server that runs already: port 0 is refused, too.
absl::StatusOr<HostPort> ParseServerAddress(std::string_view text);

// The inverse.
std::string ToString(const HostPort& address);

// Whether only this machine can reach `host` ("127.0.0.1", "::1", "localhost").
bool IsLoopback(std::string_view host);

// `advertise` as the operator gave it: the name of a network interface stands for its address,
// anything else for itself. INVALID_ARGUMENT for an interface without an address.
absl::StatusOr<std::string> ResolveAdvertised(const std::string& advertise);

// An address of this machine that other machines can dial, as a number, which means the same to all
// of them: what its name stands for, unless that is on the loopback (as Debian's installer has it
// in /etc/hosts), else that of its first interface that is up. NOT_FOUND where there is only
// loopback.
absl::StatusOr<std::string> AddressForOthers();

// The local address of the route to `peer` (HOST:PORT) for others to dial: loopback for a peer that
// is called so, AddressForOthers() for a name of this machine that stands for loopback here. No
// packet is sent. NOT_FOUND for a host without an address, UNAVAILABLE without a route.
absl::StatusOr<std::string> LocalAddressTowards(const std::string& peer);

}  // namespace albef

#endif  // ALBEF_COMMON_NETWORK_ADDRESS_H_
