// Frames of proto/mesh.proto as gRPC carries them.
//
// A chunk is written and read by hand: sent data is never copied in this process, received data
// once, from gRPC's buffers to where it belongs. Its bytes are those of the protocol buffer. What
// is read is not trusted.
#ifndef ALBEF_COMM_MESH_FRAME_H_
#define ALBEF_COMM_MESH_FRAME_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/mesh.pb.h"

namespace albef {

inline constexpr size_t kMaxChunkBytes = 1 << 20;
// With a chunk's header, or of any other frame.
inline constexpr size_t kMaxFrameBytes = kMaxChunkBytes + 1024;

struct ChunkHeader {
  uint64_t operation = 0;
  uint64_t size = 0;  // of the whole transfer
  uint64_t offset = 0;
};

// Any frame but a chunk.
grpc::ByteBuffer EncodeFrame(const mesh::v1::Frame& frame);

// `owner` keeps the data alive until gRPC has sent it or given up.
grpc::ByteBuffer EncodeChunk(const ChunkHeader& header, std::span<const std::byte> data,
                             std::shared_ptr<const void> owner);

bool IsChunk(grpc::ByteBuffer& frame);  // not changed

// Any frame but a chunk. INVALID_ARGUMENT if it is none.
absl::StatusOr<mesh::v1::Frame> DecodeFrame(grpc::ByteBuffer frame);

// Copies the chunk's data to where `place` says, which is asked once the header and the number of
// bytes are known and may refuse. INVALID_ARGUMENT if the frame is no chunk.
absl::Status DecodeChunk(
    grpc::ByteBuffer frame,
    const std::function<absl::StatusOr<std::byte*>(const ChunkHeader&, size_t)>& place);

}  // namespace albef

#endif  // ALBEF_COMM_MESH_FRAME_H_
