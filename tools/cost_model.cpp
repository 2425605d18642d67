// Cost models between JSON and numbers.
// SPDX-License-Identifier: Apache-2.0
#include "cost_model.hpp"

#include "flags.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace espalier::tools {

namespace {

constexpr std::pair<const char*, double CostModel::*> kSpeeds[] = {{"tile_flops", &CostModel::tile_flops},
                                                                   {"chunk_flops", &CostModel::chunk_flops},
                                                                   {"chunk_plain_flops", &CostModel::chunk_plain_flops},
                                                                   {"fft_flops", &CostModel::fft_flops},
                                                                   {"bandwidth", &CostModel::bandwidth},
                                                                   {"sparse_flops", &CostModel::sparse_flops},
                                                                   {"call_seconds", &CostModel::call_seconds}};

}  // namespace

nlohmann::json cost_model_json(const CostModel& cost) {
  nlohmann::json j;
  for (const auto& [name, member] : kSpeeds) j[name] = cost.*member;
  return j;
}

CostModel cost_model_from(const std::string& text, const std::string& path) {
  const nlohmann::json j = nlohmann::json::parse(text, nullptr, false);
  if (!j.is_object()) throw FlagError("cost-model", path + ": expected a JSON object as espalier info --calibrate writes it");
  CostModel cost;
  for (const auto& item : j.items()) {
    const std::string& key = item.key();
    const nlohmann::json& value = item.value();
    const auto* known = std::find_if(std::begin(kSpeeds), std::end(kSpeeds), [&](const auto& s) { return s.first == key; });
    if (known == std::end(kSpeeds)) throw FlagError("cost-model", path + ": unknown speed '" + key + "'");
    if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() <= 0) {
      throw FlagError("cost-model", path + ": " + key + " (expected a number above 0)");
    }
    cost.*(known->second) = value.get<double>();
  }
  return cost;
}

}  // namespace espalier::tools
