#include "comm/mesh_transport.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "comm/mesh_frame.h"

namespace albef {
namespace {

constexpr int kReconnectMs = 50;
constexpr int kMaxReconnectMs = 200;
constexpr int kConnectTimeoutMs = 1000;  // until a connection that does not answer is given up

std::vector<std::pair<std::string, int>> CommonArguments(std::chrono::milliseconds silence_limit) {
  const int silence_ms = static_cast<int>(silence_limit.count());
  return {
      {GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, static_cast<int>(kMaxFrameBytes)},
      // Frames and windows that hold whole chunks: HTTP/2's usual 16 KiB cost a third of the speed.
      {GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 2 * static_cast<int>(kMaxChunkBytes)},
      {GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 * static_cast<int>(kMaxChunkBytes)},
      // The answer to a ping may take the whole limit; how often one asks adds to it.
      {GRPC_ARG_KEEPALIVE_TIME_MS, std::clamp(silence_ms / 3, 100, 5000)},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, silence_ms},
      {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
  };
}

}  // namespace

std::shared_ptr<grpc::Channel> MeshChannel(const std::string& address,
                                           std::chrono::milliseconds silence_limit) {
  grpc::ChannelArguments arguments;
  for (const auto& [key, value] : CommonArguments(silence_limit)) arguments.SetInt(key, value);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  // Nothing is ever sent twice, nor through a proxy.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void ConfigureMeshServer(grpc::ServerBuilder& builder, std::chrono::milliseconds silence_limit) {
  for (const auto& [key, value] : CommonArguments(silence_limit)) {
    builder.AddChannelArgument(key, value);
  }
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 50);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

}  // namespace albef
