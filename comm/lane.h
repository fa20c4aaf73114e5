// Operations on different lanes do not wait for each other, nor need their order be the same on all
// ranks.
#ifndef ALBEF_COMM_LANE_H_
#define ALBEF_COMM_LANE_H_

namespace albef {

enum class Lane { kMain = 0, kGradients = 1 };
inline constexpr int kNumLanes = 2;

}  // namespace albef

#endif  // ALBEF_COMM_LANE_H_
