// What every implementation of Communicator promises, as tests to instantiate:
//
//   INSTANTIATE_TEST_SUITE_P(Local, CommunicatorSuite, testing::Values(MakeLocalRanks));
#ifndef ALBEF_TESTS_COMM_COMMUNICATOR_SUITE_H_
#define ALBEF_TESTS_COMM_COMMUNICATOR_SUITE_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "comm/communicator.h"

namespace albef {

// Connected ranks; destroyed all at once.
class CommunicatorRanks {
 public:
  virtual ~CommunicatorRanks() = default;
  virtual Communicator& communicator(int rank) = 0;
};

using MakeCommunicatorRanks = std::function<std::unique_ptr<CommunicatorRanks>(int size)>;

class CommunicatorSuite : public testing::TestWithParam<MakeCommunicatorRanks> {};

}  // namespace albef

#endif  // ALBEF_TESTS_COMM_COMMUNICATOR_SUITE_H_
