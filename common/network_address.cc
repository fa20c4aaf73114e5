#include "common/network_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <memory>
#include <system_error>

#include "common/file.h"
#include "common/resources.h"
#include "common/status_macros.h"

namespace albef {
namespace {

// As people and getaddrinfo write it. Empty for other families than IP.
std::string ToText(const sockaddr* address, socklen_t size) {
  std::array<char, NI_MAXHOST> text;
  if (address == nullptr ||
      ::getnameinfo(address, size, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) != 0) {
    return "";
  }
  return text.data();
}

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

// NOT_FOUND says why not, for `purpose`.
absl::StatusOr<Addresses> Resolve(const std::string& host, const std::string& purpose) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* list = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), "9", &hints, &list); error != 0) {
    return absl::NotFoundError(fmt::format("{}: {}", purpose, ::gai_strerror(error)));
  }
  return Addresses(list, &::freeaddrinfo);
}

using Interfaces = std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)>;

absl::StatusOr<Interfaces> ListInterfaces(const std::string& purpose) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return ErrnoStatus(errno, "list interfaces for", purpose);
  return Interfaces(list, &::freeifaddrs);
}

// IPv4 first. Empty: none that `is_wanted`.
template <typename Predicate>
std::string FirstAddress(const ifaddrs* list, Predicate is_wanted) {
  for (const int family : {AF_INET, AF_INET6}) {
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != family) continue;
      std::string text = ToText(entry->ifa_addr, size);
      if (!text.empty() && is_wanted(*entry, text)) return text;
    }
  }
  return "";
}

// Means nothing on another machine.
bool IsLinkLocal(std::string_view address) { return address.find('%') != std::string_view::npos; }

}  // namespace

std::string HostOf(std::string_view address) {
  for (const std::string_view prefix : {"ipv4:", "ipv6:", "dns:"}) {
    if (address.substr(0, prefix.size()) == prefix) address.remove_prefix(prefix.size());
  }
  const size_t colon = address.rfind(':');
  std::string_view host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return std::string(host);
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view text) {
  const size_t colon = text.rfind(':');
  HostPort address{.host = HostOf(text)};
  if (colon != std::string_view::npos && !address.host.empty()) {
    const std::string_view port = text.substr(colon + 1);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
    constexpr int kMaxPort = 65535;
    if (error == std::errc() && end == port.data() + port.size() && address.port >= 0 &&
        address.port <= kMaxPort) {
      return address;
    }
  }
  return absl::InvalidArgumentError(fmt::format(
      "\"{}\" is no HOST:PORT, for example 127.0.0.1:0 or [::1]:4000; port 0 is any free one",
      text));
}

absl::StatusOr<HostPort> ParseServerAddress(std::string_view text) {
  absl::StatusOr<HostPort> address = ParseHostPort(text);
  if (address.ok() && address->port > 0) return address;
  return absl::InvalidArgumentError(fmt::format(
      "\"{}\" is no HOST:PORT of a server; RUN_DIR/coordinator.json holds the present one", text));
}

std::string ToString(const HostPort& address) {
  const bool is_v6 = address.host.find(':') != std::string::npos;
  return is_v6 ? fmt::format("[{}]:{}", address.host, address.port)
               : fmt::format("{}:{}", address.host, address.port);
}

bool IsLoopback(std::string_view host) {
  if (host == "localhost" || host == "::1") return true;
  in_addr v4;
  return ::inet_pton(AF_INET, std::string(host).c_str(), &v4) == 1 &&
         (ntohl(v4.s_addr) >> 24) == 127;
}

absl::StatusOr<std::string> ResolveAdvertised(const std::string& advertise) {
  if (::if_nametoindex(advertise.c_str()) == 0) return advertise;
  ASSIGN_OR_RETURN(const Interfaces interfaces, ListInterfaces(advertise));
  std::string found =
      FirstAddress(interfaces.get(), [&](const ifaddrs& interface, const std::string&) {
        return interface.ifa_name == advertise;
      });
  if (!found.empty()) return found;
  return absl::InvalidArgumentError(
      fmt::format("--advertise {}: this interface has no IP address; give another one or a host "
                  "name",
                  advertise));
}

absl::StatusOr<std::string> AddressForOthers() {
  const std::string name = HostName();
  if (const absl::StatusOr<Addresses> addresses = Resolve(name, name); addresses.ok()) {
    for (const int family : {AF_INET, AF_INET6}) {
      for (const addrinfo* entry = addresses->get(); entry != nullptr; entry = entry->ai_next) {
        if (entry->ai_family != family) continue;
        std::string text = ToText(entry->ai_addr, entry->ai_addrlen);
        if (!text.empty() && !IsLoopback(text) && !IsLinkLocal(text)) return text;
      }
    }
  }
  ASSIGN_OR_RETURN(const Interfaces interfaces, ListInterfaces("others to dial"));
  std::string found =
      FirstAddress(interfaces.get(), [](const ifaddrs& interface, const std::string& address) {
        return (interface.ifa_flags & IFF_UP) != 0 && !IsLoopback(address) && !IsLinkLocal(address);
      });
  if (!found.empty()) return found;
  return absl::NotFoundError("this machine has no address but that of the loopback");
}

absl::StatusOr<std::string> LocalAddressTowards(const std::string& peer) {
  const std::string host = HostOf(peer);
  if (IsLoopback(host)) return host == "::1" ? "::1" : "127.0.0.1";
  ASSIGN_OR_RETURN(const Addresses addresses, Resolve(host, peer));
  absl::Status failure = absl::NotFoundError(peer + ": no address");
  for (const addrinfo* entry = addresses.get(); entry != nullptr; entry = entry->ai_next) {
    const FileDescriptor socket(
        ::socket(entry->ai_family, entry->ai_socktype | SOCK_CLOEXEC, entry->ai_protocol));
    sockaddr_storage local = {};
    socklen_t size = sizeof(local);
    auto* generic = reinterpret_cast<sockaddr*>(&local);
    // Connecting a datagram socket only chooses the route.
    if (!socket.valid() || ::connect(socket.get(), entry->ai_addr, entry->ai_addrlen) != 0 ||
        ::getsockname(socket.get(), generic, &size) != 0) {
      failure = ErrnoStatus(errno, "find the route to", peer);
      continue;
    }
    std::string text = ToText(generic, size);
    if (text.empty()) continue;
    return IsLoopback(text) ? AddressForOthers().value_or(text) : text;
  }
  return failure;
}

}  // namespace albef
