// NCCL on host memory, in one process: the functions of NcclApi and the streams they work on, for
// ranks that are threads, with faults on demand.
//
// Like NCCL it connects and starts operations behind the caller's back (kInProgress until asked
// again), runs what is in a stream in order, lets operations wait for peers for ever, does not
// notice peers that are gone, and is used wrongly without a word: what must not happen (two
// threads at once in one communicator, a call after its abort or while one is in progress, a
// recorded event that comes before the operation it follows) fails the test here.
//
// One at a time in a process. All methods may be called from any thread.
#ifndef ALBEF_TESTS_COMM_FAKE_NCCL_H_
#define ALBEF_TESTS_COMM_FAKE_NCCL_H_

#include <memory>

#include "comm/nccl_api.h"
#include "comm/stream_device.h"

namespace albef {

class FakeNccl {
 public:
  FakeNccl();
  ~FakeNccl();

  NcclApi api() const;

  // Host memory as the device of one rank.
  std::shared_ptr<StreamDevice> NewDevice();

  void SetVersion(int version);

  // Faults; they concern communicators of the rank that exist or will exist.
  //
  // Connecting fails at once, or never ends.
  void FailInit(int rank, NcclResult result);
  void HangInit(int rank);
  // A call is in progress so many questions longer.
  void Lag(int questions);
  // What the rank does from now on stays in its streams, or goes on.
  void Hang(int rank);
  void Release(int rank);
  // The rank's communicators report an error when asked next.
  void ReportError(int rank, NcclResult result);
  // Aborting one of the rank's communicators does not return until Release().
  void HangAbort(int rank);

  // What the current stream of all threads that use the device holds is not done, or done.
  static void HoldCurrent(StreamDevice& device);
  static void ReleaseCurrent(StreamDevice& device);

  // Waits until the rank has so many operations in its streams, over all its communicators.
  void AwaitStarted(int rank, int operations);

  int num_communicators() const;  // alive
  int num_ids() const;            // given out

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace albef

#endif  // ALBEF_TESTS_COMM_FAKE_NCCL_H_
