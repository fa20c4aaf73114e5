// A network between two processes that can be slow, go silent, or break. For tests.
#ifndef ALBEF_TESTS_COMM_TCP_PROXY_H_
#define ALBEF_TESTS_COMM_TCP_PROXY_H_

#include <atomic>
#include <chrono>
#include <list>
#include <mutex>
#include <string>
#include <thread>

namespace albef {

// Passes every connection to a free port of the loopback on to `target`.
class TcpProxy {
 public:
  explicit TcpProxy(const std::string& target);  // 127.0.0.1:PORT
  ~TcpProxy();

  std::string address() const;

  // Until then connections are refused.
  void Open();

  // Everything is held back for so long, each time it is passed on.
  void Delay(std::chrono::milliseconds delay) { delay_ = delay; }
  // Takes nothing from either side and says nothing, until the end.
  void Silence() { silent_ = true; }
  // Closes all connections.
  void Cut();
  // Closes so many of the next connections as soon as they carry something.
  void CutNext(int connections) { num_to_cut_ = connections; }

  int num_connections() const { return num_connections_; }

 private:
  struct Connection {
    int client = -1;
    int server = -1;
    std::thread up;
    std::thread down;
  };

  void Listen();
  void Pass(int from, int to, bool cut);

  const std::string target_;
  int listener_ = -1;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> silent_ = false;
  std::atomic<std::chrono::milliseconds> delay_{std::chrono::milliseconds(0)};
  std::atomic<int> num_connections_ = 0;
  std::atomic<int> num_to_cut_ = 0;
  std::mutex mutex_;
  std::list<Connection> connections_;
  std::thread thread_;
};

}  // namespace albef

#endif  // ALBEF_TESTS_COMM_TCP_PROXY_H_
