// Finds the instruction sets of this machine and the one to use, once a process.
// SPDX-License-Identifier: Apache-2.0
#include <espalier/core/error.hpp>

#include "backend/cpu/dispatch.hpp"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdlib>

namespace espalier::backend {

namespace {

constexpr std::int64_t kCompiled = static_cast<std::int64_t>(HWY_TARGETS);

std::string name_of(std::int64_t target) {
  if (target == HWY_AVX3) return "avx512";
  if (target == HWY_SCALAR || target == HWY_EMU128) return "baseline";
  std::string name = hwy::TargetName(target);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

// One bit for every set that is usable here; lower bits are better. The static target always is.
std::int64_t usable() {
  return (hwy::SupportedTargets() | static_cast<std::int64_t>(HWY_STATIC_TARGET)) & kCompiled;
}

std::vector<std::int64_t> usable_targets() {
  std::vector<std::int64_t> list;
  for (std::int64_t left = usable(); left != 0; left &= left - 1) list.push_back(left & -left);
  return list;
}

class Choice {
 public:
  Choice() {
    const std::vector<std::int64_t> list = usable_targets();
    std::int64_t target = list.front();
    const char* wanted = std::getenv("ESPALIER_INSTRUCTION_SET");
    if (wanted != nullptr && *wanted != '\0') {
      std::string names;
      bool found = false;
      for (const std::int64_t t : list) {
        names += (names.empty() ? "" : ", ") + name_of(t);
        if (name_of(t) == wanted) target = t, found = true;
      }
      if (!found) {
        throw ValueError("ESPALIER_INSTRUCTION_SET is '" + std::string(wanted) + "'; this machine has " + names +
                         "; unset it or name one of these");
      }
    }
    name = name_of(target);
    chosen.Update(target);
  }
  std::string name;
  hwy::ChosenTarget chosen;
};

const Choice& choice() {
  static const Choice once;
  return once;
}

}  // namespace

std::vector<std::string> machine_instruction_sets() {
  std::vector<std::string> names;
  for (const std::int64_t t : usable_targets()) names.push_back(name_of(t));
  return names;
}

std::string used_instruction_set() {
  return choice().name;
}

const hwy::ChosenTarget& used_target() {
  return choice().chosen;
}

}  // namespace espalier::backend
