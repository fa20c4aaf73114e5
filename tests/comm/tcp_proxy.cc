#include "tests/comm/tcp_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>

namespace albef {
namespace {

constexpr int kTickMs = 20;  // how soon a thread notices that it should end

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

sockaddr* Generic(sockaddr_in* address) { return reinterpret_cast<sockaddr*>(address); }

bool WriteAll(int descriptor, const char* data, ssize_t size) {
  while (size > 0) {
    const ssize_t written = ::send(descriptor, data, static_cast<size_t>(size), MSG_NOSIGNAL);
    if (written <= 0) return false;
    data += written;
    size -= written;
  }
  return true;
}

}  // namespace

TcpProxy::TcpProxy(const std::string& target) : target_(target) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  if (::bind(listener_, Generic(&address), sizeof(address)) != 0) {
    throw std::runtime_error("no port for a proxy");
  }
}

void TcpProxy::Open() {
  if (::listen(listener_, 16) != 0) throw std::runtime_error("no connections for a proxy");
  thread_ = std::thread([this] { Listen(); });
}

TcpProxy::~TcpProxy() {
  stopping_ = true;
  Cut();
  if (thread_.joinable()) thread_.join();
  for (Connection& each : connections_) {
    each.up.join();
    each.down.join();
    ::close(each.client);
    ::close(each.server);
  }
  ::close(listener_);
}

std::string TcpProxy::address() const {
  sockaddr_in address{};
  socklen_t size = sizeof(address);
  ::getsockname(listener_, Generic(&address), &size);
  return "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

void TcpProxy::Cut() {
  const std::lock_guard lock(mutex_);
  for (const Connection& each : connections_) {
    ::shutdown(each.client, SHUT_RDWR);
    ::shutdown(each.server, SHUT_RDWR);
  }
}

void TcpProxy::Listen() {
  while (!stopping_) {
    pollfd ready{listener_, POLLIN, 0};
    if (::poll(&ready, 1, kTickMs) <= 0) continue;
    const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = Loopback(std::stoi(target_.substr(target_.rfind(':') + 1)));
    if (::connect(server, Generic(&address), sizeof(address)) != 0) {
      ::close(client);
      ::close(server);
      continue;
    }
    ++num_connections_;
    const bool cut = num_to_cut_ > 0 && num_to_cut_-- > 0;
    const std::lock_guard lock(mutex_);
    Connection& added = connections_.emplace_back();
    added.client = client;
    added.server = server;
    added.up = std::thread([=, this] { Pass(client, server, cut); });
    added.down = std::thread([=, this] { Pass(server, client, cut); });
  }
}

void TcpProxy::Pass(int from, int to, bool cut) {
  char buffer[1 << 16];
  while (!stopping_) {
    pollfd ready{from, POLLIN, 0};
    if (silent_) {
      ::poll(nullptr, 0, kTickMs);
      continue;
    }
    if (::poll(&ready, 1, kTickMs) <= 0) continue;
    const ssize_t size = ::recv(from, buffer, sizeof(buffer), 0);
    if (size <= 0) break;
    if (cut) {
      ::shutdown(from, SHUT_RDWR);
      break;
    }
    if (const auto delay = delay_.load(); delay.count() > 0) std::this_thread::sleep_for(delay);
    if (!WriteAll(to, buffer, size)) break;
  }
  ::shutdown(to, SHUT_RDWR);
}

}  // namespace albef
