// How gRPC is set up for the mesh, on either end of a connection.
#ifndef ALBEF_COMM_MESH_TRANSPORT_H_
#define ALBEF_COMM_MESH_TRANSPORT_H_

#include <grpcpp/channel.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <memory>
#include <string>

namespace albef {

// A connection of its own to `address`, tried again and again at short intervals. A peer that is
// silent for `silence_limit` is taken for dead, not before and not much later.
std::shared_ptr<grpc::Channel> MeshChannel(const std::string& address,
                                           std::chrono::milliseconds silence_limit);

void ConfigureMeshServer(grpc::ServerBuilder& builder, std::chrono::milliseconds silence_limit);

}  // namespace albef

#endif  // ALBEF_COMM_MESH_TRANSPORT_H_
