#include "comm/mesh_frame.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace albef {
namespace {

std::string Flatten(grpc::ByteBuffer frame) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(frame.Dump(&slices).ok());
  std::string flat;
  for (const grpc::Slice& slice : slices) {
    flat.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return flat;
}

// In pieces, as from a socket.
grpc::ByteBuffer Pieces(const std::string& bytes, size_t piece) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    slices.emplace_back(bytes.substr(at, piece));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

mesh::v1::Frame SomeChunk() {
  mesh::v1::Frame frame;
  frame.mutable_chunk()->set_operation(300);
  frame.mutable_chunk()->set_size(1ULL << 40);
  frame.mutable_chunk()->set_offset(70000);
  frame.mutable_chunk()->set_data("some data of the chunk");
  return frame;
}

absl::Status DecodeInto(grpc::ByteBuffer frame, std::string& data, ChunkHeader& header) {
  return DecodeChunk(std::move(frame),
                     [&](const ChunkHeader& read, size_t size) -> absl::StatusOr<std::byte*> {
                       header = read;
                       data.assign(size, '\0');
                       return reinterpret_cast<std::byte*>(data.data());
                     });
}

TEST(MeshFrame, AChunkIsWrittenAsItsProtocolBuffer) {
  const auto data = std::make_shared<std::string>(SomeChunk().chunk().data());
  const std::string bytes = Flatten(EncodeChunk(
      {300, 1ULL << 40, 70000}, std::as_bytes(std::span(data->data(), data->size())), data));
  mesh::v1::Frame frame;
  ASSERT_TRUE(frame.ParseFromString(bytes));
  EXPECT_EQ(frame.SerializeAsString(), SomeChunk().SerializeAsString());
  EXPECT_EQ(bytes, SomeChunk().SerializeAsString());
}

TEST(MeshFrame, KeepsTheDataAliveAsLongAsGrpcHoldsIt) {
  auto data = std::make_shared<std::string>("data");
  const std::weak_ptr<std::string> alive = data;
  {
    const grpc::ByteBuffer frame =
        EncodeChunk({}, std::as_bytes(std::span(data->data(), data->size())), data);
    data = nullptr;
    EXPECT_FALSE(alive.expired());
  }
  EXPECT_TRUE(alive.expired());
}

TEST(MeshFrame, ReadsAChunkHoweverItIsCut) {
  const std::string bytes = SomeChunk().SerializeAsString();
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    grpc::ByteBuffer frame = Pieces(bytes, piece);
    EXPECT_TRUE(IsChunk(frame));
    std::string data;
    ChunkHeader header;
    ASSERT_TRUE(DecodeInto(frame, data, header).ok());
    EXPECT_EQ(header.operation, 300u);
    EXPECT_EQ(header.size, 1ULL << 40);
    EXPECT_EQ(header.offset, 70000u);
    EXPECT_EQ(data, SomeChunk().chunk().data());
  }
}

TEST(MeshFrame, RefusesAChunkThatIsCutOffOrChanged) {
  const std::string bytes = SomeChunk().SerializeAsString();
  std::string data;
  ChunkHeader header;
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(DecodeInto(Pieces(bytes.substr(0, size), 7), data, header).ok()) << size;
  }
  EXPECT_FALSE(DecodeInto(Pieces(bytes + "x", 7), data, header).ok());
  mesh::v1::Frame empty;
  empty.mutable_chunk()->set_size(1);
  EXPECT_FALSE(DecodeInto(Pieces(empty.SerializeAsString(), 7), data, header).ok());
  // Whatever a byte becomes, nothing is read or written beyond the ends.
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(value);
      data.clear();
      (void)DecodeInto(Pieces(changed, 5), data, header);
      EXPECT_LE(data.size(), bytes.size());
    }
  }
}

TEST(MeshFrame, TheReceiverMayRefuseAChunk) {
  const absl::Status status =
      DecodeChunk(Pieces(SomeChunk().SerializeAsString(), 100),
                  [](const ChunkHeader&, size_t) -> absl::StatusOr<std::byte*> {
                    return absl::InternalError("no");
                  });
  EXPECT_EQ(status, absl::InternalError("no"));
}

TEST(MeshFrame, CarriesOtherFramesAsProtocolBuffers) {
  mesh::v1::Frame frame;
  frame.mutable_hello()->set_sender_rank(3);
  grpc::ByteBuffer encoded = EncodeFrame(frame);
  EXPECT_FALSE(IsChunk(encoded));
  const auto decoded = DecodeFrame(encoded);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->hello().sender_rank(), 3u);
  EXPECT_FALSE(DecodeFrame(Pieces("\xff\xff\xff", 1)).ok());
}

}  // namespace
}  // namespace albef
