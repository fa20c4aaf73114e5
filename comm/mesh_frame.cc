#include "comm/mesh_frame.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <string>
#include <utility>

#include "common/status_macros.h"

namespace albef {
namespace {

using ::google::protobuf::io::CodedInputStream;
using ::google::protobuf::io::CodedOutputStream;
using Wire = ::google::protobuf::internal::WireFormatLite;

constexpr uint32_t Tag(int field, Wire::WireType type) {
  return (static_cast<uint32_t>(field) << Wire::kTagTypeBits) | static_cast<uint32_t>(type);
}

constexpr uint32_t kChunkTag =
    Tag(mesh::v1::Frame::kChunkFieldNumber, Wire::WIRETYPE_LENGTH_DELIMITED);
constexpr uint32_t kOperationTag =
    Tag(mesh::v1::Chunk::kOperationFieldNumber, Wire::WIRETYPE_VARINT);
constexpr uint32_t kSizeTag = Tag(mesh::v1::Chunk::kSizeFieldNumber, Wire::WIRETYPE_VARINT);
constexpr uint32_t kOffsetTag = Tag(mesh::v1::Chunk::kOffsetFieldNumber, Wire::WIRETYPE_VARINT);
constexpr uint32_t kDataTag =
    Tag(mesh::v1::Chunk::kDataFieldNumber, Wire::WIRETYPE_LENGTH_DELIMITED);
static_assert(kChunkTag < 0x80 && kDataTag < 0x80, "tags of one byte");

// Both tags, both lengths and three numbers at their longest.
constexpr size_t kMaxHeaderBytes = 2 * (1 + 5) + 3 * (1 + 10);

absl::Status Malformed() { return absl::InvalidArgumentError("a malformed frame"); }

}  // namespace

grpc::ByteBuffer EncodeFrame(const mesh::v1::Frame& frame) {
  const grpc::Slice slice(frame.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer EncodeChunk(const ChunkHeader& header, std::span<const std::byte> data,
                             std::shared_ptr<const void> owner) {
  uint8_t fields[kMaxHeaderBytes];
  uint8_t* end = fields;
  const auto put = [&end](uint32_t tag, uint64_t value) {
    end = CodedOutputStream::WriteVarint32ToArray(tag, end);
    end = CodedOutputStream::WriteVarint64ToArray(value, end);
  };
  put(kOperationTag, header.operation);
  put(kSizeTag, header.size);
  put(kOffsetTag, header.offset);
  put(kDataTag, data.size());
  const size_t num_field_bytes = static_cast<size_t>(end - fields);

  uint8_t start[kMaxHeaderBytes];
  uint8_t* start_end = CodedOutputStream::WriteVarint32ToArray(kChunkTag, start);
  start_end = CodedOutputStream::WriteVarint64ToArray(num_field_bytes + data.size(), start_end);
  std::string head(reinterpret_cast<const char*>(start), static_cast<size_t>(start_end - start));
  head.append(reinterpret_cast<const char*>(fields), num_field_bytes);

  using Owner = std::shared_ptr<const void>;
  const grpc::Slice slices[] = {
      grpc::Slice(head),
      grpc::Slice(
          const_cast<std::byte*>(data.data()), data.size(),
          [](void* kept) { delete static_cast<Owner*>(kept); }, new Owner(std::move(owner)))};
  return grpc::ByteBuffer(slices, 2);
}

bool IsChunk(grpc::ByteBuffer& frame) {
  grpc::ProtoBufferReader reader(&frame);
  const void* data;
  int size;
  while (reader.Next(&data, &size)) {
    if (size > 0) return *static_cast<const uint8_t*>(data) == kChunkTag;
  }
  return false;
}

absl::StatusOr<mesh::v1::Frame> DecodeFrame(grpc::ByteBuffer frame) {
  grpc::ProtoBufferReader reader(&frame);
  mesh::v1::Frame decoded;
  if (!decoded.ParseFromZeroCopyStream(&reader)) return Malformed();
  return decoded;
}

absl::Status DecodeChunk(
    grpc::ByteBuffer frame,
    const std::function<absl::StatusOr<std::byte*>(const ChunkHeader&, size_t)>& place) {
  const size_t frame_bytes = frame.Length();
  grpc::ProtoBufferReader reader(&frame);
  CodedInputStream input(&reader);
  uint32_t length;
  if (input.ReadTag() != kChunkTag || !input.ReadVarint32(&length)) return Malformed();
  if (static_cast<size_t>(input.CurrentPosition()) + length != frame_bytes) return Malformed();
  ChunkHeader header;
  while (true) {
    const uint32_t tag = input.ReadTag();
    if (tag == kDataTag) break;
    uint64_t* const field = tag == kOperationTag ? &header.operation
                            : tag == kSizeTag    ? &header.size
                            : tag == kOffsetTag  ? &header.offset
                                                 : nullptr;
    if (field == nullptr || !input.ReadVarint64(field)) return Malformed();
  }
  uint32_t num_data_bytes;
  if (!input.ReadVarint32(&num_data_bytes) || num_data_bytes == 0) return Malformed();
  if (static_cast<size_t>(input.CurrentPosition()) + num_data_bytes != frame_bytes) {
    return Malformed();
  }
  ASSIGN_OR_RETURN(std::byte* const destination, place(header, num_data_bytes));
  if (!input.ReadRaw(destination, static_cast<int>(num_data_bytes))) return Malformed();
  return absl::OkStatus();
}

}  // namespace albef
