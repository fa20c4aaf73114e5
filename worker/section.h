// What a trainer is busy with, for those who watch over it (design §6, Who is stuck).
#ifndef ALBEF_WORKER_SECTION_H_
#define ALBEF_WORKER_SECTION_H_

namespace albef {

enum class Section {
  kSetup,       // loading, building the model
  kIdle,        // waits for the coordinator
  kSync,        // takes over or hands out state
  kData,        // waits for a batch
  kCompute,     // prologue, forward, backward, commit
  kExchange,    // waits for other trainers
  kSnapshot,    // copies the state for a checkpoint
  kCheckpoint,  // waits for a checkpoint to be written
  kEvaluate,
};

}  // namespace albef

#endif  // ALBEF_WORKER_SECTION_H_
