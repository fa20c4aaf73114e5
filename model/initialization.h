// First values of a model: random ones by the authors' laws (spec §1.2, 1.3), and the resizing of
// position embeddings (spec §1.4).
#ifndef ALBEF_MODEL_INITIALIZATION_H_
#define ALBEF_MODEL_INITIALIZATION_H_

#include <torch/types.h>

#include <cstdint>

#include "model/albef.h"

namespace albef {

// Draws all weights and both queues on the CPU generator, so that they are a function of `seed` on
// any device, and copies the student into the teacher. The queue pointer becomes 0.
void InitializeRandomly(AlbefImpl& model, uint64_t seed);

// Hard copy of every student parameter into its teacher counterpart.
void CopyStudentToTeacher(AlbefImpl& model);

// (1, 1+g², D) → (1, num_tokens, D): the first token stays, the grid is resized bicubically (a =
// −0.75, corners not aligned, no antialiasing). Both grids must be square.
torch::Tensor InterpolatePositions(const torch::Tensor& positions_1PD, int64_t num_tokens);

}  // namespace albef

#endif  // ALBEF_MODEL_INITIALIZATION_H_
