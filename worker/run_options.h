// From the typed configuration to the options of the components. Pure functions.
#ifndef ALBEF_WORKER_RUN_OPTIONS_H_
#define ALBEF_WORKER_RUN_OPTIONS_H_

#include "common/config.h"
#include "model/options.h"
#include "model/schedule.h"
#include "model/train_state.h"
#include "worker/pretrain_step.h"

namespace albef {

// `config.bert_config.vocab_size` must be set.
AlbefOptions ModelOptions(const RunConfig& config);
TrainStateOptions StateOptions(const RunConfig& config, torch::Device device);
ScheduleOptions LearningRateOptions(const RunConfig& config);
DistillationOptions AlphaOptions(const RunConfig& config);
GradientOrder ReductionOrder(const RunConfig& config);

}  // namespace albef

#endif  // ALBEF_WORKER_RUN_OPTIONS_H_
