// What training has to say (run_log.h), as the messages in which it travels from trainer to
// coordinator. Pure functions.
#ifndef ALBEF_COORDINATOR_RUN_LOG_MESSAGES_H_
#define ALBEF_COORDINATOR_RUN_LOG_MESSAGES_H_

#include "coordinator/run_log.h"
#include "proto/control.pb.h"

namespace albef {

v1::StepReport ReportOf(const StepMetrics& metrics);
StepMetrics MetricsOf(const v1::StepReport& report);

v1::EventReport ReportOf(const Event& event);
Event EventOf(const v1::EventReport& report);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_LOG_MESSAGES_H_
